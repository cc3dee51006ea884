/* A pass of the generator, from a noisy latent to a clean one, or to the keys and values that later frames look at. See
   model/transformer.py and model/blocks.py. Tokens have their channels last; a head's lie together. */

enum { MOST_LAYERS = 16, MOST_TOKENS = 256 };

typedef struct {
    DenseData into, back; /* queries and keys, values, both halves of the SwiGLU; and the way back */
    const float *norm;    /* [2 looks, side] */
    int32_t looks, hidden;
} BlockData;

typedef struct {
    DenseData enter, leave;                         /* latents in and out */
    const float *registers, *norm, *turn;           /* [registers, width], [width], [tokens + registers, side] */
    BlockData blocks[MOST_LAYERS];
    int32_t layers, width, heads, side, tokens, rows; /* side: channels of a head; rows: tokens and registers */
} GeneratorData;

typedef struct {
    const float *keys, *values; /* of a layer [views, frames, rows, heads, side], the keys turned by their age */
    const uint8_t *filled;      /* [views, frames] */
    int32_t frames;
} PastData;

INLINE float dot(const float *a, const float *b, int count) {
    vector total = {0};
    for (int i = 0; i < count; i += LANES) total += load(a + i) * load(b + i);
    return sum(total);
}

INLINE float steepness(const float *x, int count, float epsilon) { return 1 / sqrtf(dot(x, x, count) / count + epsilon); }

/* Queries or keys of a token at a mean square of 1, turned if there is a turn [side]. */
INLINE void point(const float *from, const float *norm, const float *turn, int side, float *to) {
    float steep = steepness(from, side, 0.0078125f);
    for (int i = 0; i < side; i += 2) {
        float a = from[i] * steep * norm[i], b = from[i + 1] * steep * norm[i + 1];
        to[i] = turn ? a * turn[i] - b * turn[i + 1] : a;
        to[i + 1] = turn ? a * turn[i + 1] + b * turn[i] : b;
    }
}

/* exp(x - the greatest), in place; their sum. What lies behind, up to a register's end, is overwritten. */
INLINE float soften(float *x, int count) {
    float top = x[0];
    vector total = {0};
    for (int i = 1; i < count; i++) top = most(top, x[i]);
    for (int i = count; i % LANES; i++) x[i] = -INFINITY;
    for (int i = 0; i < count; i += LANES) {
        vector value = exponential(load(x + i) - top);
        store(x + i, value);
        total += value;
    }
    return sum(total);
}

/* One head over the tokens of its own frame. wide [rows, stride] are the first layer's outputs. */
INLINE void look_around(const GeneratorData *generator, const BlockData *block, int head, const float *wide, float *mixed,
                        size_t mixed_stride) {
    int rows = generator->rows, side = generator->side, width = generator->width, stride = block->into.outputs;
    float queries[MOST_TOKENS * PANEL], keys[MOST_TOKENS * PANEL], values[MOST_TOKENS * PANEL];
    float scores[TILE][MOST_TOKENS], scale = 1 / sqrtf(side);
    for (int n = 0; n < rows; n++) {
        const float *from = wide + (size_t)n * stride + head * side, *turn = generator->turn + n * side;
        float key[PANEL];
        point(from, block->norm, turn, side, queries + n * side);
        point(from + width, block->norm + side, turn, side, key);
        for (int i = 0; i < side; i++) keys[(n / PANEL * side + i) * PANEL + n % PANEL] = key[i] * scale;
        memcpy(values + n * PANEL, from + 2 * block->looks * width, side * sizeof(float));
        for (int i = side; i < PANEL; i++) values[n * PANEL + i] = 0;
    }
    for (int n = rows; n % PANEL; n++)
        for (int i = 0; i < side; i++) keys[(n / PANEL * side + i) * PANEL + n % PANEL] = 0;
    for (int begin = 0; begin < rows; begin += TILE) {
        const float *tile[TILE];
        float found[TILE * PANEL] = {0}, totals[TILE];
        int some = rows - begin < TILE ? rows - begin : TILE;
        for (int first = 0; first < rows; first += PANEL) {
            float total[TILE * PANEL] = {0};
            tile_of(queries + begin * side, side, some, tile);
            multiply(tile, side, keys + first * side, total);
            for (int p = 0; p < TILE; p++) memcpy(scores[p] + first, total + p * PANEL, PANEL * sizeof(float));
        }
        for (int p = 0; p < TILE; p++) totals[p] = soften(scores[p], rows);
        tile_of(scores[0], MOST_TOKENS, TILE, tile);
        multiply(tile, rows, values, found);
        for (int p = 0; p < some; p++)
            for (int c = 0; c < side; c++)
                mixed[(begin + p) * mixed_stride + head * side + c] = found[p * PANEL + c] / totals[p];
    }
}

/* One head of a token over itself and the past; leaves its raw key and value. */
INLINE void look_back(const GeneratorData *generator, const BlockData *block, const PastData *past, int view, int n,
                      int head, const float *wide, float *mixed, float *key, float *value) {
    int side = generator->side, width = generator->width, rows = generator->rows, frames = past->frames;
    size_t at = ((size_t)n * generator->heads + head) * side, step = (size_t)rows * generator->heads * side;
    const float *from = wide + 2 * width + head * side, *keys = past->keys + view * frames * step + at;
    const float *values = past->values + view * frames * step + at;
    const uint8_t *filled = past->filled + (size_t)view * frames;
    float query[PANEL], scores[frames + LANES];
    point(from, block->norm + 2 * side, NULL, side, query);
    point(from + width, block->norm + 3 * side, NULL, side, key);
    memcpy(value, wide + 5 * width + head * side, side * sizeof(float));
    float scale = 1 / sqrtf(side);
    for (int i = 0; i < side; i++) query[i] *= scale;
    for (int w = 0; w < frames; w++) scores[w] = filled[w] ? dot(query, keys + w * step, side) : -INFINITY;
    scores[frames] = dot(query, key, side);
    float total = 1 / soften(scores, frames + 1);
    for (int c = 0; c < side; c += LANES) {
        vector found = scores[frames] * load(value + c);
        for (int w = 0; w < frames; w++)
            if (filled[w]) found += scores[w] * load(values + w * step + c);
        store(mixed + head * side + c, found * total);
    }
}

/* Floats of room that a view takes. */
size_t KERNEL(generate_room)(const GeneratorData *generator) {
    size_t widest = 0;
    for (int i = 0; i < generator->layers; i++) {
        const BlockData *block = &generator->blocks[i];
        size_t both = block->into.outputs + block->back.inputs;
        widest = both > widest ? both : widest;
    }
    return generator->rows * (2 * (size_t)generator->width + widest);
}

/* All views. latent [views, tokens, channels], embedded [views, tokens, width]; modulation of a view [3, layers, width]
   begins step floats after that of the one before; pasts, one for each block that looks back; clean and agent [views,
   width] as the heads see them; keys and values [those blocks, views, rows, heads, side]. With remembers, nothing but
   keys and values is made. */
void KERNEL(generate)(const GeneratorData *generator, int views, const float *latent, const float *embedded,
                      const float *modulation, int step, const PastData *pasts, int remembers, float *clean,
                      float *agent, float *keys, float *values, float *room) {
    int width = generator->width, rows = generator->rows, tokens = generator->tokens, layers = generator->layers;
    int heads = generator->heads, side = generator->side, channels = generator->enter.inputs, all = views * rows, last = 0;
    float *x = room, *normed = x + (size_t)all * width, *wide = normed + (size_t)all * width;
    for (int i = 0; i < layers; i++)
        if (generator->blocks[i].looks == 2) last = i;
#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2)
        for (int view = 0; view < views; view++)
            for (int panel = 0; panel < width / PANEL; panel++)
                panel_of(&generator->enter, panel, latent + (size_t)view * tokens * channels, channels, tokens,
                         x + (size_t)view * rows * width + panel * PANEL, width);
#pragma omp for schedule(static)
        for (int i = 0; i < all; i++) {
            int view = i / rows, n = i % rows;
            const float *known = embedded + ((size_t)view * tokens + n) * width;
            const float *own = generator->registers + (size_t)(n - tokens) * width;
            for (int c = 0; c < width; c++) x[(size_t)i * width + c] = n < tokens ? x[(size_t)i * width + c] + known[c] : own[c];
        }
        int seen = 0;
        for (int layer = 0; layer < layers; layer++) {
            const BlockData *block = &generator->blocks[layer];
            int outputs = block->into.outputs, inner = block->back.inputs, looks = block->looks;
            int ends = remembers && layer == last, looked = looks * width;
            float *mixed = wide + (size_t)all * outputs;
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                const float *scale = modulation + (size_t)(i / rows) * step + layer * width;
                const float *shift = scale + layers * width, *from = x + (size_t)i * width;
                float steep = steepness(from, width, 1.1920929e-7f);
                for (int c = 0; c < width; c++) normed[(size_t)i * width + c] = shift[c] + from[c] * steep * scale[c];
            }
#pragma omp for schedule(static)
            for (int panel = 0; panel < outputs / PANEL; panel++) {
                int group = panel * PANEL / width;
                if (!ends || group == 3 || group == 5) /* a layer that only remembers needs keys and values alone */
                    panel_of(&block->into, panel, normed, width, all, wide + panel * PANEL, outputs);
            }
#pragma omp for schedule(static) nowait
            for (int i = 0; i < (ends ? 0 : views * heads); i++)
                look_around(generator, block, i % heads, wide + (size_t)(i / heads) * rows * outputs,
                            mixed + (size_t)(i / heads) * rows * inner, inner);
            if (looks == 2) {
                float *own_keys = keys + (size_t)seen * all * width, *own_values = values + (size_t)seen * all * width;
#pragma omp for schedule(static) nowait
                for (int i = 0; i < all; i++)
                    for (int head = 0; head < heads; head++) {
                        size_t at = (size_t)i * width + head * side;
                        const float *from = wide + (size_t)i * outputs;
                        if (!ends) {
                            look_back(generator, block, &pasts[seen], i / rows, i % rows, head, from,
                                      mixed + (size_t)i * inner + width, own_keys + at, own_values + at);
                            continue;
                        }
                        point(from + 3 * width + head * side, block->norm + 3 * side, NULL, side, own_keys + at);
                        memcpy(own_values + at, from + 5 * width + head * side, side * sizeof(float));
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
                    panel_of(&block->back, panel, mixed + (size_t)view * rows * inner, inner, rows,
                             normed + (size_t)view * rows * width + panel * PANEL, width);
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                const float *share = modulation + (size_t)(i / rows) * step + (2 * layers + layer) * width;
                for (int c = 0; c < width; c++) x[(size_t)i * width + c] += share[c] * normed[(size_t)i * width + c];
            }
        }
        if (!remembers) {
#pragma omp for schedule(static)
            for (int i = 0; i < all; i++) {
                int view = i / rows, n = i % rows;
                const float *from = x + (size_t)i * width;
                float steep = steepness(from, width, 1.1920929e-7f), *to = normed + (size_t)i * width;
                for (int c = 0; c < width; c++) to[c] = from[c] * steep * generator->norm[c];
                if (n == tokens) memcpy(agent + (size_t)view * width, to, width * sizeof(float));
            }
#pragma omp for schedule(static) collapse(2)
            for (int view = 0; view < views; view++)
                for (int panel = 0; panel < panels_of(channels); panel++)
                    panel_of(&generator->leave, panel, normed + (size_t)view * rows * width, width, tokens,
                             clean + (size_t)view * tokens * channels + panel * PANEL, channels);
        }
    }
}
