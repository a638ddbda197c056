/* inspect.h - the subjects of `m2 inspect`: argv[0] is the subject, the rest what follows it on the command line. */
#ifndef M2_TOOLS_INSPECT_H
#define M2_TOOLS_INSPECT_H

#include "runtime/machine.h"
#include "runtime/config.h"

m2_status inspect_checkpoint(int argc, char **argv);
extern const char inspect_checkpoint_usage[];
m2_status inspect_store(int argc, char **argv);
extern const char inspect_store_usage[];
m2_status inspect_plan(int argc, char **argv);
extern const char inspect_plan_usage[];
/* m2 inspect plan --scaling: tables of the best mesh by ranks and length. */
m2_status inspect_scaling(const m2_config *cfg, const m2_machine *m);

#endif
