/* A pass of the transformer, from a noisy latent to a clean one, or to the keys and values for later frames.
   See model/transformer.py and model/blocks.py. Tokens have their channels last; a head's lie together. */

enum { MAX_LAYERS = 16, MAX_TOKENS = 256 };

typedef struct {
    DenseData in_proj, out_proj; /* queries and keys, values, both halves of the SwiGLU; and the way back */
    const float *norm;    /* [2 attentions, head_dim] */
    int32_t attentions, hidden;
} BlockData;

typedef struct {
    DenseData input, output;                         /* latents in and out */
    /* [registers, width], [width], [tokens + registers, head_dim] */
    const float *registers, *norm, *rope;
    BlockData blocks[MAX_LAYERS];
    /* head_dim: channels of a head; rows: tokens and registers */
    int32_t layers, width, heads, head_dim, tokens, rows;
} GeneratorData;

typedef struct {
    /* of a layer [views, frames, rows, heads, head_dim], the keys turned by their age */
    const float *keys, *values;
    const uint8_t *filled;      /* [views, frames] */
    int32_t frames;
} LayerKVData;

INLINE float dot(const float *a, const float *b, int count) {
    vector total = {0};
    for (int i = 0; i < count; i += LANES) total += load(a + i) * load(b + i);
    return hsum(total);
}

INLINE float inverse_rms(const float *x, int count, float epsilon) {
    return 1 / sqrtf(dot(x, x, count) / count + epsilon);
}

/* Queries or keys of a token at a mean square of 1, turned if there is a turn [head_dim]. */
INLINE void normalise_and_rotate(const float *from, const float *norm, const float *turn, int head_dim,
                                 float *to) {
    float steep = inverse_rms(from, head_dim, 0.0078125f);
    for (int i = 0; i < head_dim; i += 2) {
        float a = from[i] * steep * norm[i], b = from[i + 1] * steep * norm[i + 1];
        to[i] = turn ? a * turn[i] - b * turn[i + 1] : a;
        to[i + 1] = turn ? a * turn[i + 1] + b * turn[i] : b;
    }
}

/* exp(x - max x), in place; returns the sum. Floats behind, up to a register's end, are overwritten. */
INLINE float softmax_exp(float *x, int count) {
    float top = x[0];
    vector total = {0};
    for (int i = 1; i < count; i++) top = maxf(top, x[i]);
    for (int i = count; i % LANES; i++) x[i] = -INFINITY;
    for (int i = 0; i < count; i += LANES) {
        vector value = vexp(load(x + i) - top);
        store(x + i, value);
        total += value;
    }
    return hsum(total);
}

/* One head over the tokens of its own frame. wide [rows, stride] are the first layer's outputs. */
INLINE void attend_in_frame(const GeneratorData *generator, const BlockData *block, int head,
                            const float *wide, float *mixed, size_t mixed_stride) {
    int rows = generator->rows, head_dim = generator->head_dim, width = generator->width,
        stride = block->in_proj.outputs;
    float queries[MAX_TOKENS * PANEL], keys[MAX_TOKENS * PANEL], values[MAX_TOKENS * PANEL];
    float scores[TILE][MAX_TOKENS], scale = 1 / sqrtf(head_dim);
    for (int n = 0; n < rows; n++) {
        const float *from = wide + (size_t)n * stride + head * head_dim,
            *turn = generator->rope + n * head_dim;
        float key[PANEL];
        normalise_and_rotate(from, block->norm, turn, head_dim, queries + n * head_dim);
        normalise_and_rotate(from + width, block->norm + head_dim, turn, head_dim, key);
        for (int i = 0; i < head_dim; i++)
            keys[(n / PANEL * head_dim + i) * PANEL + n % PANEL] = key[i] * scale;
        memcpy(values + n * PANEL, from + 2 * block->attentions * width, head_dim * sizeof(float));
        for (int i = head_dim; i < PANEL; i++) values[n * PANEL + i] = 0;
    }
    for (int n = rows; n % PANEL; n++)
        for (int i = 0; i < head_dim; i++) keys[(n / PANEL * head_dim + i) * PANEL + n % PANEL] = 0;
    for (int begin = 0; begin < rows; begin += TILE) {
        const float *tile[TILE];
        float found[TILE * PANEL] = {0}, totals[TILE];
        int some = rows - begin < TILE ? rows - begin : TILE;
        for (int first = 0; first < rows; first += PANEL) {
            float total[TILE * PANEL] = {0};
            tile_rows(queries + begin * head_dim, head_dim, some, tile);
            multiply_tile(tile, head_dim, keys + first * head_dim, total);
            for (int p = 0; p < TILE; p++)
                memcpy(scores[p] + first, total + p * PANEL, PANEL * sizeof(float));
        }
        for (int p = 0; p < TILE; p++) totals[p] = softmax_exp(scores[p], rows);
        tile_rows(scores[0], MAX_TOKENS, TILE, tile);
        multiply_tile(tile, rows, values, found);
        for (int p = 0; p < some; p++)
            for (int c = 0; c < head_dim; c++)
                mixed[(begin + p) * mixed_stride + head * head_dim + c] = found[p * PANEL + c] / totals[p];
    }
}

/* One head of a token over itself and the past; leaves its raw key and value. */
INLINE void attend_to_cache(const GeneratorData *generator, const BlockData *block, const LayerKVData *past,
                            int view, int n, int head, const float *wide, float *mixed, float *key,
                            float *value) {
    int head_dim = generator->head_dim, width = generator->width, rows = generator->rows,
        frames = past->frames;
    size_t at = ((size_t)n * generator->heads + head) * head_dim,
        step = (size_t)rows * generator->heads * head_dim;
    const float *from = wide + 2 * width + head * head_dim, *keys = past->keys + view * frames * step + at;
    const float *values = past->values + view * frames * step + at;
    const uint8_t *filled = past->filled + (size_t)view * frames;
    float query[PANEL], scores[frames + LANES];
    normalise_and_rotate(from, block->norm + 2 * head_dim, NULL, head_dim, query);
    normalise_and_rotate(from + width, block->norm + 3 * head_dim, NULL, head_dim, key);
    memcpy(value, wide + 5 * width + head * head_dim, head_dim * sizeof(float));
    float scale = 1 / sqrtf(head_dim);
    for (int i = 0; i < head_dim; i++) query[i] *= scale;
    for (int w = 0; w < frames; w++)
        scores[w] = filled[w] ? dot(query, keys + w * step, head_dim) : -INFINITY;
    scores[frames] = dot(query, key, head_dim);
    float total = 1 / softmax_exp(scores, frames + 1);
    for (int c = 0; c < head_dim; c += LANES) {
        vector found = scores[frames] * load(value + c);
        for (int w = 0; w < frames; w++)
            if (filled[w]) found += scores[w] * load(values + w * step + c);
        store(mixed + head * head_dim + c, found * total);
    }
}

/* Floats of workspace that a view takes. */
size_t KERNEL(generator_workspace)(const GeneratorData *generator) {
    size_t widest = 0;
    for (int i = 0; i < generator->layers; i++) {
        const BlockData *block = &generator->blocks[i];
        size_t both = block->in_proj.outputs + block->out_proj.inputs;
        widest = both > widest ? both : widest;
    }
    return generator->rows * (2 * (size_t)generator->width + widest);
}

/* All views. latent [views, tokens, channels], embedded [views, tokens, width]; modulation of a view [3,
   layers, width] begins step floats after that of the one before; pasts, one for each block that attentions
   back; clean and agent [views, width] as the heads see them; keys and values [those blocks, views, rows,
   heads, head_dim]. With kv_only, nothing but keys and values is made. */
void KERNEL(generate)(const GeneratorData *generator, int views, const float *latent, const float *embedded,
                      const float *modulation, int step, const LayerKVData *pasts, int kv_only, float *clean,
                      float *agent, float *keys, float *values, float *workspace) {
    int width = generator->width, rows = generator->rows, tokens = generator->tokens,
        layers = generator->layers;
    int heads = generator->heads, head_dim = generator->head_dim, channels = generator->input.inputs,
        all = views * rows, last = 0;
    float *x = workspace, *normed = x + (size_t)all * width, *wide = normed + (size_t)all * width;
    for (int i = 0; i < layers; i++)
        if (generator->blocks[i].attentions == 2) last = i;
#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2)
        for (int view = 0; view < views; view++)
            for (int panel = 0; panel < width / PANEL; panel++)
                panel_of(&generator->input, panel, latent + (size_t)view * tokens * channels, channels,
                         tokens, x + (size_t)view * rows * width + panel * PANEL, width);
#pragma omp for schedule(static)
        for (int i = 0; i < all; i++) {
            int view = i / rows, n = i % rows;
            const float *known = embedded + ((size_t)view * tokens + n) * width;
            const float *own = generator->registers + (size_t)(n - tokens) * width;
            for (int c = 0; c < width; c++)
                x[(size_t)i * width + c] = n < tokens ? x[(size_t)i * width + c] + known[c] : own[c];
        }
        int seen = 0;
        for (int layer = 0; layer < layers; layer++) {
            const BlockData *block = &generator->blocks[layer];
            int outputs = block->in_proj.outputs, inner = block->out_proj.inputs,
                attentions = block->attentions;
            int ends = kv_only && layer == last, looked = attentions * width;
            float *mixed = wide + (size_t)all * outputs;
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                const float *scale = modulation + (size_t)(i / rows) * step + layer * width;
                const float *shift = scale + layers * width, *from = x + (size_t)i * width;
                float steep = inverse_rms(from, width, 1.1920929e-7f);
                for (int c = 0; c < width; c++)
                    normed[(size_t)i * width + c] = shift[c] + from[c] * steep * scale[c];
            }
#pragma omp for schedule(static)
            for (int panel = 0; panel < outputs / PANEL; panel++) {
                int group = panel * PANEL / width;
                /* a layer that only kv_only needs keys and values alone */
                if (!ends || group == 3 || group == 5)
                    panel_of(&block->in_proj, panel, normed, width, all, wide + panel * PANEL, outputs);
            }
#pragma omp for schedule(static) nowait
            for (int i = 0; i < (ends ? 0 : views * heads); i++)
                attend_in_frame(generator, block, i % heads, wide + (size_t)(i / heads) * rows * outputs,
                            mixed + (size_t)(i / heads) * rows * inner, inner);
            if (attentions == 2) {
                float *own_keys = keys + (size_t)seen * all * width,
                    *own_values = values + (size_t)seen * all * width;
#pragma omp for schedule(static) nowait
                for (int i = 0; i < all; i++)
                    for (int head = 0; head < heads; head++) {
                        size_t at = (size_t)i * width + head * head_dim;
                        const float *from = wide + (size_t)i * outputs;
                        if (!ends) {
                            attend_to_cache(generator, block, &pasts[seen], i / rows, i % rows, head, from,
                                      mixed + (size_t)i * inner + width, own_keys + at, own_values + at);
                            continue;
                        }
                        normalise_and_rotate(from + 3 * width + head * head_dim, block->norm + 3 * head_dim,
                                             NULL, head_dim, own_keys + at);
                        memcpy(own_values + at, from + 5 * width + head * head_dim, head_dim * sizeof(float));
                    }
                seen++;
            }
            if (ends) break;
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                const float *opened = wide + (size_t)i * outputs + 3 * looked, *up = opened + block->hidden;
                float *to = mixed + (size_t)i * inner + looked;
                for (int c = 0; c < block->hidden; c += LANES) {
                    vector gate = load(opened + c);
                    store(to + c, gate * sigmoid(gate) * load(up + c));
                }
            }
#pragma omp for schedule(static) collapse(2)
            for (int view = 0; view < views; view++)
                for (int panel = 0; panel < width / PANEL; panel++)
                    panel_of(&block->out_proj, panel, mixed + (size_t)view * rows * inner, inner, rows,
                             normed + (size_t)view * rows * width + panel * PANEL, width);
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                const float *share = modulation + (size_t)(i / rows) * step + (2 * layers + layer) * width;
                for (int c = 0; c < width; c++)
                    x[(size_t)i * width + c] += share[c] * normed[(size_t)i * width + c];
            }
        }
        if (!kv_only) {
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                int view = i / rows, n = i % rows;
                const float *from = x + (size_t)i * width;
                float steep = inverse_rms(from, width, 1.1920929e-7f), *to = normed + (size_t)i * width;
                for (int c = 0; c < width; c++) to[c] = from[c] * steep * generator->norm[c];
                if (n == tokens) memcpy(agent + (size_t)view * width, to, width * sizeof(float));
            }
#pragma omp for schedule(static) collapse(2)
            for (int view = 0; view < views; view++)
                for (int panel = 0; panel < panels_of(channels); panel++)
                    panel_of(&generator->output, panel, normed + (size_t)view * rows * width, width, tokens,
                             clean + (size_t)view * tokens * channels + panel * PANEL, channels);
        }
    }
}
