#include "runtime/models/layers.h"

#include <math.h>
#include <string.h>

void m2i_block(m2_program *p, const m2_config *cfg, m2_tid position, m2i_stream *s)
{
    double ending = 1 / sqrt(2 * (double)cfg->model_layers); /* of a residual branch, SPEC 5.1 */
    m2i_mixing mixing = {.gate = M2_GATE_FIRST, .out_std = ending * cfg->model_init_std};
    m2_program_push(p, "mixer");
    m2_tid u = m2i_norm(p, "norm", s, cfg->model_norm_eps);
    s->delta = m2i_mixer(p, cfg, &mixing, position, u);
    m2_program_pop(p);
    if (!strcmp(cfg->model_mlp, "none")) return;
    m2_program_push(p, "mlp");
    u = m2i_norm(p, "norm", s, cfg->model_norm_eps);
    s->delta = m2i_mlp(p, cfg, ending, u);
    m2_program_pop(p);
}
