/* Three threads share out loops while their number changes; ci/sanitize.sh looks for races in it. */

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

typedef long Py_ssize_t;
#include "../nnbackend/backends/numpy/threads.h"

enum { SIZE = 1000, TURNS = 2000 };

static void add_index(const void *job, Py_ssize_t first, Py_ssize_t stop)
{
    long *sums = *(long *const *)job;
    for (Py_ssize_t i = first; i < stop; i++)
        sums[i] += i;
}

static void *repeat(void *given)
{
    long *sums = given;
    for (int turn = 0; turn < TURNS; turn++)
        share_out(add_index, &sums, SIZE, 10);
    return NULL;
}

int main(void)
{
    static long sums[3][SIZE];
    pthread_t callers[3];
    int wrong = 0;
    for (int i = 0; i < 3; i++)
        if (pthread_create(&callers[i], NULL, repeat, sums[i]))
            return 1;
    for (int count = 0; count < 100; count++) {
        use_threads(1 + count % 5);
        usleep(500);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(callers[i], NULL);
    use_threads(1);
    for (int i = 0; i < 3; i++)
        for (long k = 0; k < SIZE; k++)
            wrong += sums[i][k] != k * TURNS;
    printf("%d wrong sums\n", wrong);
    return wrong != 0;
}
