/* layers.h - what the model families are made of. Private to this folder.
 *
 * Every builder below appends parameters and calls to p under the current scope and returns the output. Layouts: token-major
 * (B, L, C) unless said otherwise; channel-major (C, B, L) inside the mixer. The residual stream is in the precise dtype P. */
#ifndef M2_MODELS_LAYERS_H
#define M2_MODELS_LAYERS_H

#include "runtime/models/model.h"
#include "runtime/optim.h"

/* ---- layers.c */
/* A parameter of up to two dimensions (d1 = 0: one). */
m2_tid m2i_param(m2_program *p, const char *name, int64_t d0, int64_t d1, m2_init_kind init, double a, int group,
                 unsigned flags);
/* A call with up to four inputs; out may be NULL. Returns out[0]. */
m2_tid m2i_call(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, m2_tid *out, m2_tid a, m2_tid b,
                m2_tid c, m2_tid d);

typedef struct m2i_dense {
    int64_t out, in;
    double std;      /* of the initial weight */
    int x_cm, y_cm;  /* channel-major input, output */
    int no_bias;
    int group;       /* runtime/optim.h */
    unsigned flags;  /* M2_PARAM_PRECISE for the filter network */
} m2i_dense;
m2_tid m2i_linear(m2_program *p, const char *name, m2_tid x, const m2i_dense *d); /* scope `name`: weight, bias */

/* x in training with probability `rate` > 0 of each element to be dropped, else x. */
m2_tid m2i_dropout(m2_program *p, const char *name, double rate, m2_tid x);
/* Flags of parameters that the published initialisation draws once for all blocks. */
unsigned m2i_alike(const m2_config *cfg);

/* The residual stream between blocks: sum + delta, not yet added. */
typedef struct m2i_stream {
    m2_tid sum, delta; /* delta M2_NONE: nothing to add */
} m2i_stream;
/* Adds delta to the stream and returns the layer norm of the result in the compute dtype. */
m2_tid m2i_norm(m2_program *p, const char *name, m2i_stream *s, double eps);

/* ---- mixer.c: sequence mixing. u (B, L, d) -> (B, L, d) */
typedef struct m2i_mixing {
    int gate;          /* M2_GATE_FIRST: the input gate comes last; M2_GATE_SECOND: first */
    int bidirectional; /* filters reach into the future too, with taps from a network of their own */
    int residual;      /* a second long convolution, of the mixer's input itself */
    double out_std;    /* of the out-projection's initial weight */
} m2i_mixing;
/* position: what filters read, or M2_NONE: each filter has and trains features of its own. */
m2_tid m2i_mixer(m2_program *p, const m2_config *cfg, const m2i_mixing *kind, m2_tid position, m2_tid u);
/* What all implicit filters of a model read: features (L, model.filter.emb) of each position, SPEC 3.3. */
m2_tid m2i_position(m2_program *p, const m2_config *cfg);

/* ---- mlp.c: dimension mixing, model.mlp. u (B, L, d) -> (B, L, d). ending: factor of the last weight's initial values */
m2_tid m2i_mlp(m2_program *p, const m2_config *cfg, double ending, m2_tid u);

/* ---- classify.c: the head of task.name on x (B, L, d), with its inputs and outputs */
void m2i_classify(m2_program *p, const m2_config *cfg, m2_tid x);
void m2i_embed(m2_program *p, m2_tid x); /* of m2 embed: means as they are */

/* ---- block.c: pre-norm blocks: norm, mixer, and if model.mlp is not none, norm, MLP */
void m2i_block(m2_program *p, const m2_config *cfg, const m2i_mixing *mixing, double ending, m2_tid position,
               m2i_stream *s);

#endif
