/* fault.h - places where a test may let a process fail or die. Nothing in m2 itself.
 *
 * A test program that is compiled with M2_FAULTS, the sources in question among its own, defines m2_fault and is told each
 * point as it is reached: it can kill the process there, or count. M2_FAULT_AT also says how far the run is, and gives what
 * may be damaged. No variable and no option switches this on. */
#ifndef M2_BASE_FAULT_H
#define M2_BASE_FAULT_H

#ifdef M2_FAULTS
#include <stdint.h>
void m2_fault(const char *point);
void m2_fault_at(const char *point, int64_t at, void *object);
#define M2_FAULT(point) m2_fault(point)
#define M2_FAULT_AT(point, at, object) m2_fault_at(point, at, object)
#else
#define M2_FAULT(point) ((void)0)
#define M2_FAULT_AT(point, at, object) ((void)0)
#endif

#endif
