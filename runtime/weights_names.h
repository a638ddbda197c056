/* weights_names.h - private to weights*.c. */
#ifndef M2_WEIGHTS_NAMES_H
#define M2_WEIGHTS_NAMES_H

#include "runtime/weights.h"

/* Memory for w->cfg's model, `arrays` of it, zeroed; copies the texts. */
m2_status m2i_weights_make(m2_weights *w, const char *config, const char *tokenizer, int arrays, m2_dtype dtype) M2_MUST_USE;

#endif
