/* ops.h - the contract of every op: slots, attributes, shapes, mathematics. CPU and CUDA kernels, model builders and
 * tests all rely on this page; each op's file repeats only what its implementation adds.
 *
 * Letters: B batch rows, L positions, C channels, R = product of all leading dimensions, [x] optional.
 * dtypes: "T" is the compute dtype of activations (f32 or f64 on the CPU; f32 or bf16 on CUDA). "P" is f64 when T
 *   is f64,
 * else f32: statistics, small parameters, filters, losses. Matrices (linear W and b, blockdiag W and b, embedding
 *   tables)
 * are T. All gradients of parameters are P; gradients of activations have the activation's dtype.
 * Sums over rows, batch or positions accumulate in f32 or wider, in an order that depends only on shapes and
 *   `threads`.
 *
 * ---- linear(x, W, [b]) -> y                                    SPEC 1.6; y = x W^T + b
 *   W (n, m), b (n). Attributes X_CM, Y_CM choose layouts, nothing is transposed in memory by itself:
 *   x token-major (..., m) or, X_CM=1, channel-major (m, B, L); y token-major (..., n) or, Y_CM=1, (n, B, L).
 *   X_CM or Y_CM need rank-3 x. linear_grad(x, W, dy) -> dx, dW, db.
 * ---- blockdiag(x, W, [b]) -> y                                 SPEC 2.1
 *   x (..., m), W (nb, q, p): y[.., k q + o] = sum_i W[k,o,i] x[.., k p + i] + b[k q + o]. Output width N_OUT (0 =
 *   nb q);
 *   m <= nb p with the missing inputs zero, N_OUT <= nb q cropped. blockdiag_grad(x, W, dy) -> dx, dW, db.
 * ---- shortconv(x, w, b, [left]) -> g, [z]                      depthwise causal convolution, SPEC 3.2 and 5.1
 *   x (C, B, L), w (C, K), b (C); q[c,b,t] = sum_{i<K} w[c,i] x[c,b,t-K+1+i] + b[c]. Before t = 0 of each row:
 *   left (C, B, K-1),
 *   the last tokens of the left neighbour where the sequence is cut (parallel/exchange.h halo), absent: zeros.
 *   CHUNKS > 1: a row is so many chunks of L / CHUNKS positions, each with its own left: (C, B, CHUNKS (K-1)).
 *   GATE = M2_GATE_NONE: g = q (C, B, L), z absent. Else C = 3d, q split in thirds, outputs (d, B, L):
 *   M2_GATE_FIRST (GPT: x0, x1, v): g = q0, z = q2*q1.  M2_GATE_SECOND (BERT: x1, x2, v): g = q1, z = q2*q0.
 *   shortconv_grad(x, w, b, left, dg, dz) -> dx, dw, db, dleft (q is recomputed).
 * ---- longconv(u, k, [kr], [D], [pre], [post]) -> y             SPEC 1.3, 3.2; any L >= 1
 *   u, pre, post (C, B, L); k (F, Lk), kr (F, Lk), D (F) with Lk <= L (missing taps are zero); F divides C.
 *   Filter of channel c: SHARE = M2_SHARE_HEAD: c / (C/F) (consecutive channels share), M2_SHARE_INDEX: c % F.
 *   u may come in segments, (S, C, B, L/S): pre, post, y and their gradients then too (parallel/exchange.h). Taps
 *   stay (F, Lk).
 *   a = u*pre;  s[t] = sum_{j<=t} k[t-j] a[j] + sum_{j>t} kr[j-t-1] a[j] + D a[t];  y = s*post.   k, kr, D are P.
 *   BAND in (0, 1): frequency-sparse (SPEC 7.6). With n the least power of two >= max(L, 256), the filter (k, kr, D: all of
 *   it but kr[L-1], which reaches nothing) loses its frequencies (j - 1/4) / n of a turn, j < n, that are further than BAND / 2
 *   from a whole turn: a low-pass, which reaches into the future a little even without kr. 0 or 1: nothing is lost.
 *   VARIANT: kernels/op.h, m2_variant.
 *   longconv_grad(u, k, kr, D, pre, post, [y], dy) -> du, dk, dkr, dD, dpre, dpost. With y a kernel may take dpost = dy y / post;
 *   without it, and in rows where some |post| < M2_LONGCONV_LEAST_GATE, dpost = dy s with s computed again.
 * ---- columns(x, [xr], [x0]) -> z      first block stage of the longconv of a sequence cut into columns (kernels/ops/monarch.c)
 *   N = ROWS WIDTH points as a matrix of WIDTH columns, of which OWN from AT on are here: x (C, B, l) or (F, l), its first
 *   l / OWN <= ROWS rows, one behind the other; x, xr T (or P). z (ROWS, C, B or 1, 2 OWN) P, re of the columns, then im.
 *   xr: taps of lags -1, -2, ..., (F, l) like x but of the mirrored columns [WIDTH - AT - OWN, WIDTH - AT). x0 (F): lag 0.
 *   uncolumns(z) -> y, [yr], [y0]: the adjoint, and columns its adjoint. y (C, B, LENGTH) OUT_DTYPE; yr, y0 as gradients only.
 * ---- cyclic(u, k) -> y          second block stage: rows of WIDTH points, cyclically convolved, over ROWS
 *   u, y (R, C, B, 2c), k (R, F, 1, 2c), all P: SEGMENTS times R/SEGMENTS rows, of each c of WIDTH = SEGMENTS c columns.
 *   Filter of channel c by SHARE, as in longconv. R = ROWS. cyclic_grad(u, k, dy) -> du, dk.
 * ---- sine(x, a) -> y            implicit filter's activation: x (R, w), a (w): y = sin(a x), all P.
 *   sine_grad(x, a, dy) -> dx, da
 * ---- decay(h) -> k              h (F, L): k[c,n] = h[c,n] exp(-t_n |delta_c|), t_n = n/(LMAX-1) (0 if LMAX = 1),
 *   delta_c =
 *   linspace(DELTA0, DELTA1, whole F)[c], by h's whole/origin. Self-adjoint: decay(dk) is its own gradient.
 *   Column i is n = AT + i, or with RUN > 0 n = AT + i + i / RUN * JUMP: runs of columns.
 * ---- norm(x, gamma, beta) -> y, stats            layer norm over the last dimension C, biased variance, EPS
 *   x (..., C), gamma, beta (C) P; stats (R, 2) P = mean, 1/sqrt(var + EPS). OUT_DTYPE: dtype of y.
 *   norm_grad(x, gamma, stats, dy) -> dx, dgamma, dbeta
 * ---- addnorm(x, delta, gamma, beta) -> sum, y, stats      sum = x + delta (x's dtype), y = norm(sum)
 *   addnorm_grad(gamma, sum, stats, dsum, dy) -> dx, ddelta, dgamma, dbeta      dx = ddelta = dsum + norm'(dy)
 * ---- act(x) -> y                KIND m2_act.  act_grad(x, dy) -> dx
 * ---- glu(h) -> z                h (..., 2e): z = act(h[..., :e]) * h[..., e:].  glu_grad(h, dz) -> dh
 * ---- add(a, b) -> y (y has a's dtype, both inputs pass the gradient), mul(a, b) -> y; mul_grad(a, b, dy) -> da,
 *   db.  scale(x) -> y: FACTOR x; its own gradient.
 * ---- cast(x) -> y               OUT_DTYPE; passes the gradient (cast back).
 * ---- fill() -> y                VALUE; the shape is given by the caller (no inputs)
 * ---- dropout(x) -> y            P_DROP: kept elements are x / (1 - P). Element e of the *global* array
 *   (row-major over whole
 *   dimensions; the 'B' dimension's index is origin + step->row0 + b, its whole extent WHOLE_B) is kept iff
 *   m2_rng_uniform(key(step->seed, step->step, call->rng), e) >= P. Its own gradient (same rng id).
 * ---- embed(ids, table, [pos], [type]) -> y
 *   ids (B, L) i32, table (V, C), pos (Lmax, C), type (n, C) row 0 used: y[b,t] = table[id] + pos[origin_L + t] +
 *   type[0].
 *   With RUN > 0 pos[origin_L + t + t / RUN * JUMP]: runs of positions.
 *   OUT_DTYPE; PAD (id whose table row gets no gradient, -1 none). embed_grad(ids, dy) -> dtable, dpos, dtype.
 *   An id outside [0, V) is M2_DATA naming position and value (CPU); tokens are range-checked by the loader for
 *   the GPU.
 * ---- gather(x, idx) -> y        x (..., C) as R rows, idx (n) i32: y[i] = x[idx[i]], zeros if idx[i] < 0.
 *   gather_grad(idx, dy) -> dx
 * ---- transpose(x) -> y          x (B, L, C) -> y (C, B, L), the way into the mixer without a projection.
 *   transpose_grad(dy) -> dx
 * ---- pool(x, n) -> y            x (B, L, C), n (B) i32: y[b] = mean of x[b, t] over t < n[b] (at most L), zeros if
 *   n[b] <= 0. y (B, C). pool_grad(n, dy) -> dx
 * ---- xent(logits, targets) -> loss, lse, hits
 *   logits (..., V) T as R rows, targets i32 with R elements, ignored where == IGNORE. loss () P = sum over valid
 *   rows of
 *   (lse - logit[target]) / denom, denom = DENOM or, DENOM = 0, the number of valid rows (loss 0 if there are none);
 *   lse (R) P; hits () P = number of valid rows whose argmax (lowest index on ties) is the target.
 *   xent_grad(logits, targets, lse, [dloss]) -> dlogits. Absent dloss means 1.
 * ---- softxent(logits, targets) -> loss, lse, hits
 *   logits (..., V) T and targets (..., V) P, distributions, or zeros for a row that does not count. loss () P = sum over rows
 *   of (sum_k t_k lse - sum_k t_k x_k) / denom, denom = DENOM or, DENOM = 0, the rows; lse (R) P; hits () P = rows whose
 *   largest logit is at their largest target. softxent_grad(logits, targets, lse, [dloss]) -> dlogits
 * ---- mse(x, y) -> loss          x T and y P with as many elements; loss () P = sum (x - y)^2 / denom, denom = DENOM or, DENOM
 *   = 0, their number. mse_grad(x, y, [dloss]) -> dx
 * ---- sumsq(x) -> s              s () f64 = sum of squares, any float dtype
 * ---- adam(p, g, m, v, groups, [norm2]) -> p, m, v, [p16]       one flat shard, updated in place
 *   p, g, m, v (n) P; groups u8, one per M2_GROUP_BLOCK elements (n is a multiple); norm2 () f64 = squared global
 *   gradient norm.
 *   With s = step: c = clip > 0 && norm > clip ? clip/norm : 1; g *= c; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 *   lr = s.lr * lr_scale; DECAY = M2_DECAY_COUPLED (torch AdamW): p -= lr*wd*p; M2_DECAY_FREE (SPEC 3.8): p *= 1 -
 *   lr/lr_peak*wd;
 *   p -= lr * mhat / (sqrt(vhat) + EPS). norm2 non-finite or beyond s.outlier: nothing changes. p16 (n) bf16:
 *   rounded copy. */
#ifndef M2_OPS_H
#define M2_OPS_H

#include "kernels/op.h"

/* indices into m2_attrs.i and .f, and their values */
enum { M2_LINEAR_X_CM = 0, M2_LINEAR_Y_CM };
enum { M2_BLOCKDIAG_N_OUT = 0 };
enum { M2_SHORTCONV_GATE = 0, M2_SHORTCONV_CHUNKS };
enum { M2_GATE_NONE, M2_GATE_FIRST, M2_GATE_SECOND };
enum { M2_LONGCONV_SHARE = 0, M2_LONGCONV_VARIANT };
enum { M2_LONGCONV_BAND = 0 };
#define M2_LONGCONV_LEAST_GATE 0x1p-63 /* y = s post is not so small that its rounding would be more than relative */
enum { M2_SHARE_HEAD, M2_SHARE_INDEX };
enum { M2_COLUMNS_ROWS = 0, M2_COLUMNS_WIDTH, M2_COLUMNS_AT, M2_COLUMNS_OWN, M2_COLUMNS_LENGTH, M2_COLUMNS_OUT_DTYPE };
enum { M2_CYCLIC_SHARE = 0, M2_CYCLIC_SEGMENTS };
enum { M2_DECAY_LMAX = 0, M2_DECAY_AT, M2_DECAY_RUN, M2_DECAY_JUMP };
enum { M2_DECAY_DELTA0 = 0, M2_DECAY_DELTA1 };
enum { M2_NORM_OUT_DTYPE = 0 };
enum { M2_NORM_EPS = 0 };
enum { M2_ACT_KIND = 0 };
typedef enum m2_act { M2_ACT_GELU_ERF, M2_ACT_GELU_TANH, M2_ACT_RELU, M2_ACT_SILU, M2_ACT_TANH, M2_ACT_COUNT } m2_act;
enum { M2_SCALE_FACTOR = 0 };
enum { M2_CAST_OUT_DTYPE = 0 };
enum { M2_FILL_VALUE = 0 };
enum { M2_DROPOUT_P = 0 };
enum { M2_DROPOUT_WHOLE_B = 0 };
enum { M2_EMBED_OUT_DTYPE = 0, M2_EMBED_PAD, M2_EMBED_RUN, M2_EMBED_JUMP };
enum { M2_XENT_IGNORE = 0, M2_XENT_DENOM };
enum { M2_SOFTXENT_DENOM = 0 };
enum { M2_MSE_DENOM = 0 };
enum { M2_ADAM_DECAY = 0 };
enum { M2_DECAY_COUPLED, M2_DECAY_FREE };
enum { M2_ADAM_BETA1 = 0, M2_ADAM_BETA2, M2_ADAM_EPS };
enum { M2_GROUP_BLOCK = 256 };

#endif
