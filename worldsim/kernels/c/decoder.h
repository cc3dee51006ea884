/* The decoder's network, from prior and latent to the last layer's output for each cell. See
   HistoryTokenizer.decode in tokenizer/history.py. All cells have their channels last. */

enum { MAX_BLOCKS = 8, GROUPS = 8, PRIOR_CHANNELS = 8 };

typedef struct {
    const float *scale, *shift; /* [width] */
} NormData;

typedef struct {
    DenseData input; /* prior of a cell's pixels, then its latent, then zeros */
    DenseData first[MAX_BLOCKS], second[MAX_BLOCKS], output;
    NormData norm_in[MAX_BLOCKS], norm_out[MAX_BLOCKS], norm;
    int32_t depth, width, channels;
} DecoderData;

/* Prior of a cell's pixels [PRIOR_CHANNELS, patch, patch], then its latent, interpolated between tokens. */
INLINE void gather_inputs(const CameraData *camera, const DecoderData *decoder, int row, const float *prior,
                          const float *warped, const float *valid, const float *reach, const float *latent,
                          float *cells) {
    int columns = camera->columns, patch = camera->patch, wide = columns / patch, high = camera->rows / patch;
    int pool = camera->pool, tokens = wide / pool, area = patch * patch, channels = decoder->channels;
    size_t plane = (size_t)camera->rows * columns, inputs = decoder->input.inputs;
    Tap along = upsample_tap(row, pool, high / pool);
    for (int column = 0; column < wide; column++) {
        float *to = cells + column * inputs;
        for (int y = 0; y < patch; y++)
            for (int x = 0; x < patch; x++) {
                size_t from = ((size_t)row * patch + y) * columns + column * patch + x;
                int at = y * patch + x;
                for (int c = 0; c < 3; c++) {
                    to[c * area + at] = prior[c * plane + from];
                    to[(3 + c) * area + at] = warped[c * plane + from];
                }
                to[6 * area + at] = valid[from];
                to[7 * area + at] = 1 / (1 + reach[from]);
            }
        Tap across = upsample_tap(column, pool, tokens);
        const float *above = latent + (size_t)along.before * tokens * channels;
        const float *below = latent + (size_t)along.after * tokens * channels;
        float *code = to + PRIOR_CHANNELS * area;
        for (int c = 0; c < channels; c++) {
            float first = lerp(above[across.before * channels + c], above[across.after * channels + c],
                               across.share);
            float second = lerp(below[across.before * channels + c], below[across.after * channels + c],
                                across.share);
            code[c] = lerp(first, second, along.share);
        }
        for (size_t c = PRIOR_CHANNELS * area + channels; c < inputs; c++) to[c] = 0;
    }
}

/* Scale and shift [2, width] of each channel by a group norm and an optional FiLM [2, width].
   sums [rows, 2, width] are those of values and of their squares. */
INLINE void group_norm_affine(const NormData *norm, const float *sums, int rows, int wide, int width,
                              const float *film, float *told) {
    int share = width / GROUPS;
    for (int g = 0; g < GROUPS; g++) {
        double total = 0, square = 0, count = (double)rows * wide * share;
        for (int y = 0; y < rows; y++)
            for (int c = g * share; c < (g + 1) * share; c++) {
                total += sums[(size_t)y * 2 * width + c];
                square += sums[(size_t)y * 2 * width + width + c];
            }
        double mean = total / count, spread = square / count - mean * mean;
        float steep = (float)(1 / sqrt((spread > 0 ? spread : 0) + 1e-5));
        for (int c = g * share; c < (g + 1) * share; c++) {
            float scale = norm->scale[c] * steep, shift = norm->shift[c] - (float)mean * scale;
            float more = film ? 1 + film[c] : 1;
            told[c] = scale * more, told[width + c] = shift * more + (film ? film[width + c] : 0);
        }
    }
}

/* to = SiLU of the group norm of cells [views, high, wide, width], under films [views, .., 2, width] if there
   are any. sums is workspace for views x (high + 1) x 2 x width. Called by all threads of a team. */
INLINE void norm_film_silu(const NormData *norm, int views, int high, int wide, int width, const float *cells,
                     const float *films, size_t film_stride, float *to, float *sums) {
    float *told = sums + (size_t)views * high * 2 * width;
#pragma omp for schedule(static)
    for (int i = 0; i < views * high; i++) {
        float *total = sums + (size_t)i * 2 * width;
        const float *from = cells + (size_t)i * wide * width;
        for (int c = 0; c < 2 * width; c++) total[c] = 0;
        for (int x = 0; x < wide; x++)
            for (int c = 0; c < width; c += LANES) {
                vector value = load(from + x * width + c), squares = load(total + width + c) + value * value;
                store(total + c, load(total + c) + value);
                store(total + width + c, squares);
            }
    }
#pragma omp for schedule(static)
    for (int view = 0; view < views; view++)
        group_norm_affine(norm, sums + (size_t)view * high * 2 * width, high, wide, width,
               films ? films + view * film_stride : NULL, told + (size_t)view * 2 * width);
#pragma omp for schedule(static)
    for (int i = 0; i < views * high; i++) {
        const float *line = cells + (size_t)i * wide * width, *scale = told + (size_t)(i / high) * 2 * width;
        float *out = to + (size_t)i * wide * width;
        for (int x = 0; x < wide; x++)
            for (int c = 0; c < width; c += LANES) {
                vector value = load(line + x * width + c) * load(scale + c) + load(scale + width + c);
                store(out + x * width + c, value * sigmoid(value));
            }
    }
}

INLINE int widest_input(const DecoderData *decoder) {
    return decoder->input.inputs > decoder->width ? decoder->input.inputs : decoder->width;
}

/* Floats of workspace that a view takes. */
size_t KERNEL(decoder_workspace)(const CameraData *camera, const DecoderData *decoder) {
    size_t cells = (size_t)(camera->rows / camera->patch) * (camera->columns / camera->patch),
        tiles = cells / (OUT * OUT);
    size_t outputs = decoder->output.outputs > decoder->width ? decoder->output.outputs : decoder->width;
    return cells * (decoder->input.inputs + 3 * decoder->width)
           + tiles * SPOTS * (widest_input(decoder) + (size_t)panels_of(outputs) * PANEL);
}

/* All views. latent [views, tokens, channels], films [views, depth, 2, width]; out [views, cells, outputs];
   all else as for recall. */
void KERNEL(decode)(const CameraData *camera, const DecoderData *decoder, int views, const float *prior,
                    const float *warped, const float *valid, const float *reach, const float *latent,
                    const float *films, float *out, float *workspace) {
    int high = camera->rows / camera->patch, wide = camera->columns / camera->patch, width = decoder->width;
    size_t plane = (size_t)camera->rows * camera->columns, cells = (size_t)high * wide;
    size_t tokens = cells / (camera->pool * camera->pool), film = (size_t)decoder->depth * 2 * width;
    size_t inputs = decoder->input.inputs, most = views * cells;
    float *described = workspace, *hidden = described + most * inputs, *active = hidden + most * width;
    float *inner = active + most * width, *spots = inner + most * width;
    float *sums = spots + most / (OUT * OUT) * SPOTS * widest_input(decoder);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < views * high; i++) {
            size_t view = i / high;
            gather_inputs(camera, decoder, i % high, prior + 3 * view * plane, warped + 3 * view * plane,
                          valid + view * plane, reach + view * plane,
                          latent + view * tokens * decoder->channels, described + (size_t)i * wide * inputs);
        }
        convolve(&decoder->input, views, high, wide, described, 0, 0, hidden, spots, sums);
        for (int block = 0; block < decoder->depth; block++) {
            norm_film_silu(&decoder->norm_in[block], views, high, wide, width, hidden, NULL, 0, active, sums);
            convolve(&decoder->first[block], views, high, wide, active, 0, 0, inner, spots, sums);
            norm_film_silu(&decoder->norm_out[block], views, high, wide, width, inner,
                           films + (size_t)block * 2 * width, film, active, sums);
            convolve(&decoder->second[block], views, high, wide, active, 0, 1, hidden, spots, sums);
        }
        norm_film_silu(&decoder->norm, views, high, wide, width, hidden, NULL, 0, active, sums);
        convolve(&decoder->output, views, high, wide, active, 0, 0, out, spots, sums);
    }
}
