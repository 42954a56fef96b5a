/*
 * A program for mmvisor in C: it asks for memory, takes it away again, and looks at what is left.
 *
 * With nothing under it:
 *     gcc -static -nostdlib -I resources -o example resources/example.c
 * As an ordinary static program with a C library:
 *     gcc -static -I resources -o example resources/example.c
 * Then:
 *     mmvisor run ./example
 *
 * It exits with 0, or with 1 and a line that says what was wrong. Natively it says that there is no
 * mmvisor, and does the part that needs none.
 */
#include "mmvisor.h"

static int wrong(const char *what)
{
    mmvisor_print("example: ");
    mmvisor_print(what);
    mmvisor_print("\n");
    return 1;
}

int main(void)
{
    static char maps[4096];
    struct mmvisor_fault fault;
    unsigned long value = 0;
    long page, length;

    page = mmvisor_map(0, MMVISOR_PAGE, MMVISOR_PROT_READ | MMVISOR_PROT_WRITE, 0);
    if (mmvisor_failed(page))
        return wrong("mmap failed");
    if (*(volatile unsigned long *)page != 0)
        return wrong("a fresh page is not zero");
    *(volatile unsigned long *)page = 42;

    if (!mmvisor_here()) {
        mmvisor_print("example: this is not mmvisor; try `mmvisor run`\n");
        return 0;
    }

    if (mmvisor_protect(page, MMVISOR_PAGE, MMVISOR_PROT_READ) != 0)
        return wrong("mprotect failed");
    fault = mmvisor_try_store((unsigned long)page, 43);
    if (fault.signal != 11 || fault.code != 2 || fault.address != (unsigned long)page)
        return wrong("a store to a read-only page was not answered with SEGV_ACCERR");
    mmvisor_print("a store at ");
    mmvisor_print_address(fault.address);
    mmvisor_print(", read-only: signal ");
    mmvisor_print_number(fault.signal);
    mmvisor_print(", si_code ");
    mmvisor_print_number(fault.code);
    mmvisor_print("\n");

    fault = mmvisor_try_load((unsigned long)page, &value);
    if (fault.signal != 0 || value != 42)
        return wrong("the page does not hold what was written before");

    mmvisor_unmap(page, MMVISOR_PAGE);
    fault = mmvisor_try_load((unsigned long)page, &value);
    if (fault.signal != 11 || fault.code != 1)
        return wrong("a load from an unmapped page was not answered with SEGV_MAPERR");

    length = mmvisor_maps(maps, sizeof maps);
    if (length <= 0)
        return wrong("maps failed");
    mmvisor_print("the address space:\n");
    mmvisor_write(1, maps, (unsigned long)length < sizeof maps ? (unsigned long)length : sizeof maps);
    return 0;
}
