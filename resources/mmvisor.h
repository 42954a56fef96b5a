/*
 * For programs in C that run in mmvisor, with a C library or with nothing under them.
 *
 * mmvisor speaks Linux's x86-64 system-call interface: number in rax, arguments in rdi rsi rdx r10
 * r8 r9, result or a negated error number in rax, rcx and r11 lost. Its own calls have numbers from
 * 0x4d4d00 ("MM") on. Everything else is as syscall(2) and the pages about each call say.
 *
 * Two ways to use this header (resources/example.c):
 *
 *   gcc -static -nostdlib -I resources ...
 *       Nothing under the program: the header's _start calls main(argc, argv, envp) and exits with
 *       what it returns. Where the compiler asks for memcpy, memmove, memset or memcmp, define
 *       MMVISOR_MEMORY_FUNCTIONS before including the header. Where it protects stacks by default,
 *       add -fno-stack-protector (the guard lies in a C library's thread data).
 *   gcc -static -I resources ...
 *       An ordinary program with a C library, whose own _start comes first.
 *
 * GCC or Clang, x86-64 only. Nothing needs to be linked.
 */
#ifndef MMVISOR_H
#define MMVISOR_H

#if !defined(__x86_64__)
#error "mmvisor.h: x86-64 only"
#endif

/* ---- numbers -------------------------------------------------------------------------------- */

/*
 * mmvisor_recover(address): arms a recovery address, 0 for none; the answer is the one armed before.
 * The next fault that would kill the program goes on there, once, with rdi = signal, rsi = si_code,
 * rdx = si_addr, rcx = the rip that faulted, rax = the page fault's error code or 0; rsp, rbp, rbx and
 * r12 to r15 as they were at the fault. mmvisor_try_load and its like below are easier to use.
 */
#define MMVISOR_CALL_RECOVER 0x4d4d00L
/*
 * mmvisor_maps(buffer, length): writes what /proc/self/maps would say, cut at length, without a zero
 * byte at the end; the answer is the length of the whole text.
 */
#define MMVISOR_CALL_MAPS 0x4d4d01L

/* Linux's numbers, those that a program without a C library wants first. */
#define MMVISOR_NR_read 0L
#define MMVISOR_NR_write 1L
#define MMVISOR_NR_mmap 9L
#define MMVISOR_NR_mprotect 10L
#define MMVISOR_NR_munmap 11L
#define MMVISOR_NR_brk 12L
#define MMVISOR_NR_mremap 25L
#define MMVISOR_NR_exit_group 231L

#define MMVISOR_PAGE 4096L

#define MMVISOR_PROT_NONE 0L
#define MMVISOR_PROT_READ 1L
#define MMVISOR_PROT_WRITE 2L
#define MMVISOR_PROT_EXEC 4L

#define MMVISOR_MAP_PRIVATE 0x2L
#define MMVISOR_MAP_FIXED 0x10L
#define MMVISOR_MAP_ANONYMOUS 0x20L
#define MMVISOR_MAP_FIXED_NOREPLACE 0x100000L

/* Error numbers, as a call answers them: negated. */
#define MMVISOR_ENOSYS (-38L)

/* ---- calls ---------------------------------------------------------------------------------- */

/* Makes a call; the answer is the result, or a negated error number (see mmvisor_failed). */
static inline long mmvisor_call6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline long mmvisor_call3(long number, long a, long b, long c)
{
    return mmvisor_call6(number, a, b, c, 0, 0, 0);
}

static inline long mmvisor_call2(long number, long a, long b)
{
    return mmvisor_call6(number, a, b, 0, 0, 0, 0);
}

static inline long mmvisor_call1(long number, long a)
{
    return mmvisor_call6(number, a, 0, 0, 0, 0, 0);
}

/* Whether a call's answer is an error: from -4095 to -1. */
static inline int mmvisor_failed(long result)
{
    return (unsigned long)result >= -4095UL;
}

/* mmap(2), anonymous and private. */
static inline long mmvisor_map(long address, unsigned long length, long prot, long flags)
{
    return mmvisor_call6(MMVISOR_NR_mmap, address, (long)length, prot,
                         flags | MMVISOR_MAP_PRIVATE | MMVISOR_MAP_ANONYMOUS, -1, 0);
}

/* munmap(2) */
static inline long mmvisor_unmap(long address, unsigned long length)
{
    return mmvisor_call2(MMVISOR_NR_munmap, address, (long)length);
}

/* mprotect(2) */
static inline long mmvisor_protect(long address, unsigned long length, long prot)
{
    return mmvisor_call3(MMVISOR_NR_mprotect, address, (long)length, prot);
}

/* Ends the program. */
__attribute__((noreturn)) static inline void mmvisor_exit(int status)
{
    for (;;)
        mmvisor_call1(MMVISOR_NR_exit_group, status);
}

/* MMVISOR_CALL_MAPS. Natively MMVISOR_ENOSYS: so a program can tell where it runs. */
static inline long mmvisor_maps(char *buffer, unsigned long length)
{
    return mmvisor_call2(MMVISOR_CALL_MAPS, (long)buffer, (long)length);
}

/* Whether the program runs in mmvisor. */
static inline int mmvisor_here(void)
{
    return mmvisor_maps(0, 0) != MMVISOR_ENOSYS;
}

/* ---- printing ------------------------------------------------------------------------------- */

/* Writes bytes to a file descriptor, as often as it takes; what it refuses is dropped. */
static inline void mmvisor_write(int descriptor, const char *bytes, unsigned long length)
{
    while (length > 0) {
        long written = mmvisor_call3(MMVISOR_NR_write, descriptor, (long)bytes, (long)length);

        if (written <= 0)
            return;
        bytes += written;
        length -= (unsigned long)written;
    }
}

/* Prints a string to standard output. */
static inline void mmvisor_print(const char *text)
{
    unsigned long length = 0;

    while (text[length]) {
        length++;
        __asm__("" : "+r"(length)); /* or the compiler calls strlen */
    }
    mmvisor_write(1, text, length);
}

/* Prints a number to standard output, in decimal. */
static inline void mmvisor_print_number(long number)
{
    char digits[20];
    unsigned int at = sizeof digits;
    unsigned long rest = number < 0 ? 0UL - (unsigned long)number : (unsigned long)number;

    do
        digits[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (number < 0)
        mmvisor_print("-");
    mmvisor_write(1, digits + at, sizeof digits - at);
}

/* Prints an address to standard output, as 0x and hexadecimal digits. */
static inline void mmvisor_print_address(unsigned long address)
{
    char digits[18];
    unsigned int at = sizeof digits;

    do
        digits[--at] = "0123456789abcdef"[address % 16];
    while ((address /= 16) != 0);
    digits[--at] = 'x';
    digits[--at] = '0';
    mmvisor_write(1, digits + at, sizeof digits - at);
}

/* ---- surviving a fault ---------------------------------------------------------------------- */

/* What would have killed the program (sigaction(2), siginfo_t). */
struct mmvisor_fault {
    long signal;           /* 0: there was no fault */
    long code;             /* si_code */
    unsigned long address; /* si_addr */
    unsigned long rip;     /* the instruction */
    unsigned long error;   /* the page fault's error code, else 0 */
};

/*
 * Loads the eight bytes at an address into *value, unless that faults. The answer is the fault, with
 * signal 0 if there was none, or -1 with the code MMVISOR_ENOSYS where there is no mmvisor (and then
 * nothing was loaded).
 *
 *   arm "2:" -> load -> disarm --------------------> 3: what the registers say
 *                 `- faults: 2: rdi, rsi, ... set --^
 */
static inline struct mmvisor_fault mmvisor_try_load(unsigned long address, unsigned long *value)
{
    struct mmvisor_fault fault = {-1, MMVISOR_ENOSYS, 0, 0, 0};
    unsigned long loaded = 0;
    long signal = 0, code = 0;
    unsigned long at = 0, rip = 0, error = 0;

    if (!mmvisor_here())
        return fault;
    __asm__ volatile("lea 2f(%%rip), %%rdi\n\t"
                     "mov %[recover], %%eax\n\t"
                     "syscall\n\t"
                     "mov (%[address]), %[loaded]\n\t"
                     "xor %%edi, %%edi\n\t"
                     "mov %[recover], %%eax\n\t"
                     "syscall\n\t"
                     "xor %%edi, %%edi\n" /* no signal */
                     "2:"
                     : [loaded] "+&b"(loaded), "=&D"(signal), "=&S"(code), "=&d"(at), "=&c"(rip),
                       "=&a"(error)
                     : [address] "r"(address), [recover] "i"(MMVISOR_CALL_RECOVER)
                     : "r8", "r9", "r10", "r11", "memory", "cc");
    fault.signal = signal;
    if (signal == 0) {
        fault.code = 0;
        *value = loaded;
        return fault;
    }
    fault.code = code;
    fault.address = at;
    fault.rip = rip;
    fault.error = error;
    return fault;
}

/* Stores eight bytes at an address, unless that faults; the answer is as mmvisor_try_load's. */
static inline struct mmvisor_fault mmvisor_try_store(unsigned long address, unsigned long value)
{
    struct mmvisor_fault fault = {-1, MMVISOR_ENOSYS, 0, 0, 0};
    long signal = 0, code = 0;
    unsigned long at = 0, rip = 0, error = 0;

    if (!mmvisor_here())
        return fault;
    __asm__ volatile("lea 2f(%%rip), %%rdi\n\t"
                     "mov %[recover], %%eax\n\t"
                     "syscall\n\t"
                     "mov %[value], (%[address])\n\t"
                     "xor %%edi, %%edi\n\t"
                     "mov %[recover], %%eax\n\t"
                     "syscall\n\t"
                     "xor %%edi, %%edi\n"
                     "2:"
                     : "=&D"(signal), "=&S"(code), "=&d"(at), "=&c"(rip), "=&a"(error)
                     : [address] "r"(address), [value] "r"(value),
                       [recover] "i"(MMVISOR_CALL_RECOVER)
                     : "r8", "r9", "r10", "r11", "memory", "cc");
    fault.signal = signal;
    fault.code = signal == 0 ? 0 : code;
    if (signal != 0) {
        fault.address = at;
        fault.rip = rip;
        fault.error = error;
    }
    return fault;
}

/* ---- without a C library -------------------------------------------------------------------- */

/* The program's main, whatever its type says. */
extern int mmvisor_main(int, char **, char **) __asm__("main");

/* The stack at entry: argc, argv, a null, envp, a null (AMD64 ABI, 3.4.1). */
__attribute__((noreturn, used)) static void mmvisor_start(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);

    mmvisor_exit(mmvisor_main(argc, argv, argv + argc + 1));
}

/* Weak: a C library's _start is taken instead, and so is another file's. */
__asm__(".pushsection .text\n"
        ".weak _start\n"
        "_start:\n\t"
        "xor %ebp, %ebp\n\t"
        "mov %rsp, %rdi\n\t"
        "and $-16, %rsp\n\t"
        "call mmvisor_start\n\t"
        "hlt\n\t"
        ".popsection");

#ifdef MMVISOR_MEMORY_FUNCTIONS

void *memcpy(void *to, const void *from, unsigned long length)
{
    void *start = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return start;
}

void *memmove(void *to, const void *from, unsigned long length)
{
    char *last = (char *)to + length - 1;
    const char *last_from = (const char *)from + length - 1;

    /* Downwards where the target starts inside the source. */
    if ((unsigned long)to - (unsigned long)from >= length)
        return memcpy(to, from, length);
    __asm__ volatile("std; rep movsb; cld"
                     : "+D"(last), "+S"(last_from), "+c"(length) : : "memory");
    return to;
}

void *memset(void *to, int byte, unsigned long length)
{
    void *start = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(byte) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, unsigned long length)
{
    const unsigned char *x = a, *y = b;

    for (; length > 0; length--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

#endif /* MMVISOR_MEMORY_FUNCTIONS */

#endif /* MMVISOR_H */
