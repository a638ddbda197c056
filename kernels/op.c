#include "kernels/op.h"

#include <string.h>

static const m2_op *const table[] = {
#define M2_OP(name) &m2_op_##name,
#include "kernels/ops.def"
#undef M2_OP
};

const m2_op *m2_op_table(int id)
{
    return table[id];
}

const m2_op *m2_op_find(const char *name)
{
    for (int i = 0; i < M2_OP_COUNT; i++)
        if (!strcmp(table[i]->name, name)) return table[i];
    return NULL;
}

/* Gradient ops get their outputs' shapes from autodiff, so the descriptors know how many slots to add up. The slots
 * beyond an op's own are never read. */
void m2_op_cost_bytes(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    (void)attrs;
    cost->flops = cost->bytes = 0;
    for (int i = 0; i < M2_MAX_IN; i++) cost->bytes += (double)m2_desc_bytes(&in[i]);
    for (int j = 0; j < M2_MAX_OUT; j++) cost->bytes += (double)m2_desc_bytes(&out[j]);
}
