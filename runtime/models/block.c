#include "runtime/models/layers.h"

#include <string.h>

void m2i_block(m2_program *p, const m2_config *cfg, const m2i_mixing *mixing, double ending, m2_tid position,
               m2i_stream *s)
{
    m2_program_push(p, "mixer");
    m2_tid u = m2i_norm(p, "norm", s, cfg->model_norm_eps);
    s->delta = m2i_mixer(p, cfg, mixing, position, u);
    m2_program_pop(p);
    if (!strcmp(cfg->model_mlp, "none")) return;
    m2_program_push(p, "mlp");
    u = m2i_norm(p, "norm", s, cfg->model_norm_eps);
    s->delta = m2i_mlp(p, cfg, ending, u);
    m2_program_pop(p);
}
