/* inspect.h - the subjects of `m2 inspect`: argv[0] is the subject, the rest what follows it on the command line. */
#ifndef M2_TOOLS_INSPECT_H
#define M2_TOOLS_INSPECT_H

#include "kernels/base/status.h"

m2_status inspect_checkpoint(int argc, char **argv);
extern const char inspect_checkpoint_usage[];
m2_status inspect_store(int argc, char **argv);
extern const char inspect_store_usage[];
m2_status inspect_plan(int argc, char **argv);
extern const char inspect_plan_usage[];

#endif
