/* fault.h - places where a test may let a process fail or die. Nothing in m2 itself.
 *
 * A test program that is compiled with M2_FAULTS, the sources in question among its own, defines m2_fault and is told each
 * point as it is reached: it can kill the process there, or count. No variable and no option switches this on. */
#ifndef M2_BASE_FAULT_H
#define M2_BASE_FAULT_H

#ifdef M2_FAULTS
void m2_fault(const char *point);
#define M2_FAULT(point) m2_fault(point)
#else
#define M2_FAULT(point) ((void)0)
#endif

#endif
