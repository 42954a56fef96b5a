/* Says what a call answered: its value, or its errno. */
#include <errno.h>
#include <stdio.h>

#define TRY(call) answer(#call, (long)(call))

static void answer(const char *what, long result)
{
    if (result < 0)
        printf("%s: errno %d\n", what, errno);
    else
        printf("%s: %ld\n", what, result);
    fflush(stdout);
}
