/* warm.h - parameters from another run's checkpoint: of the same body, perhaps shorter, perhaps with another head. */
#ifndef M2_WARM_H
#define M2_WARM_H

#include "runtime/checkpoint.h"

/* Overwrites the parameters of a program that is already initialised with those of the checkpoint at `path`, by name.
 * A longer model repeats the rows of embed.position and keeps its own positional features (SPEC 3.7). Heads (head.*, classify.*)
 * may be absent on either side; anything else that is missing, left over or of another shape is M2_DATA naming the tensor. */
M2_API m2_status m2_warm_start(const char *path, const m2_state *state) M2_MUST_USE;

#endif
