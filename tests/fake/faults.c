/* faults.c - what goes wrong in m2_faulty: m2 with the fault points of its trainer (kernels/base/fault.h) switched on.
 *
 *   FAULT_GRADIENTS=FROM-TO    steps that read rows FROM ... TO - 1 of the stream get gradients that are not numbers
 *   FAULT_FLIP=RANK:STEP       a bit of a parameter of that rank changes after that step
 *   FAULT_SLOW=RANK:MS         every step takes that rank so much longer
 *   FAULT_EVEN=FROM:MS         the same of all ranks from number FROM on */
#include "kernels/base/fault.h"
#include "parallel/comm.h"
#include "runtime/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Two numbers of a variable that is set. */
static int given(const char *name, const char *format, long long *a, long long *b)
{
    const char *text = getenv(name);
    return text && sscanf(text, format, a, b) == 2;
}

static int this_rank(void)
{
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    return rank;
}

static void spoil_gradients(m2_program *p)
{
    void *base;
    m2_dtype type;
    if (m2_program_flat(p, "grad", &base, &type) != M2_OK || type != M2_F32) abort();
    *(float *)base = (float)NAN;
}

static void flip_bit(m2_program *p)
{
    const m2_param *rows;
    void *base;
    m2_dtype type;
    int n = m2_program_params(p, &rows);
    if (m2_program_flat(p, "param", &base, &type) != M2_OK || type != M2_F32) abort();
    uint32_t *word = (uint32_t *)base + rows[n / 2].offset;
    *word ^= 1;
    fprintf(stderr, "flipped a bit of %s\n", rows[n / 2].name);
}

static void pass(long long ms)
{
    nanosleep(&(struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * 1000000)}, NULL);
}

void m2_fault_at(const char *point, int64_t at, void *object)
{
    long long a, b;
    if (!strcmp(point, "gradients") && given("FAULT_GRADIENTS", "%lld-%lld", &a, &b) && at >= a && at < b)
        spoil_gradients(object);
    if (!strcmp(point, "parameters") && given("FAULT_FLIP", "%lld:%lld", &a, &b) && this_rank() == a && at == b)
        flip_bit(object);
    if (strcmp(point, "compute") != 0) return;
    if (given("FAULT_SLOW", "%lld:%lld", &a, &b) && this_rank() == a) pass(b);
    if (given("FAULT_EVEN", "%lld:%lld", &a, &b) && this_rank() >= a) pass(b);
}
