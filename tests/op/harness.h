/* harness.h - what the modes of the op test share. One process tests one device. */
#ifndef M2_TESTS_OP_HARNESS_H
#define M2_TESTS_OP_HARNESS_H

#include "kernels/perf.h"

typedef struct harness {
    m2_device *device; /* under test */
    m2_device *cpu;    /* the reference, in f64 */
    const char *spec;  /* as given to m2_device_open */
    const char *only;  /* NULL or the one op to test */
    const char *precision; /* NULL: all that the device is used in */
} harness;
extern harness test;

/* Counts one assertion; a failure is printed with the case it belongs to. row may be NULL. */
void expect(int ok, const m2_case *row, const char *fmt, ...) M2_PRINTF(3, 4);
/* expect(st == M2_OK) with the message; returns st == M2_OK. */
int expect_ok(m2_status st, const m2_case *row, const char *what);
/* expect(error <= tol), relative L2 over a slot against a reference. */
void expect_close(const m2_slot *got, const m2_slot *want, double tol, const m2_case *row, const char *what,
                  const char *name);
/* sqrt(sum (a - b)^2 / sum b^2) */
double distance(const m2_slot *a, const m2_slot *b);

/* Calls body for every row that is selected and not for measuring. */
void each_row(void (*body)(const m2_case *row));
/* Calls body for every such row in every precision of the device. */
void each_precision(void (*body)(const m2_case *row, const m2_probe_precision *prec));
double tolerance(const m2_case *row, const m2_probe_precision *prec);

void mode_value(void);
void mode_grad(void);
void mode_adjoint(void);
void mode_bounds(void);
void mode_repeat(void);
void mode_shard(void);
void mode_complete(void);
void mode_perf(void);
#endif
