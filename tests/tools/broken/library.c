/* Everything that the checks of tools/ must find in a library. */
#include <stdio.h>

static int counter;

void unprefixed(void)
{
    puts(counter++ ? "again" : "once");
}
