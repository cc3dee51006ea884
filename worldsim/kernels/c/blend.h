/* Blend of static scene and warped previous frame by the decoder's output: flow, trust and residual colour.
   See HistoryTokenizer.decode in tokenizer/history.py. */

enum { PAD = 8 }; /* pixels of replicated border around an image: samples lie no farther out */

/* Four pixels of four channels. */
typedef float rgbs __attribute__((vector_size(64), aligned(4), may_alias));

INLINE int clamp_index(int at, int cells) { return at < 0 ? 0 : at < cells ? at : cells - 1; }

/* Cubic weights of four neighbours for a point ``share`` beyond the second (Keys, a = -3/4). */
INLINE void cubic_weights(vector share, vector *weights) {
    const float a = -0.75f;
    vector before = 1 + share, after = 1 - share, beyond = 2 - share;
    weights[0] = ((a * before - 5 * a) * before + 8 * a) * before - 4 * a;
    weights[1] = ((a + 2) * share - (a + 3)) * share * share + 1;
    weights[2] = ((a + 2) * after - (a + 3)) * after * after + 1;
    weights[3] = ((a * beyond - 5 * a) * beyond + 8 * a) * beyond - 4 * a;
}

/* Cubic taps of x in [-1, 1] in a padded image: index of the first of four neighbours, and their weights. */
INLINE ivector cubic_tap(vector x, int cells, vector *weights) {
    vector at = vmin(vmax(((x + 1) * (float)cells - 1) * 0.5f, splat(-4)), splat(cells + 4)) + (float)PAD;
    ivector before = __builtin_convertvector(at, ivector);
    cubic_weights(at - __builtin_convertvector(before, vector), weights);
    return before - 1;
}

/* Between a coarse picture's cells, ``times`` of which make one pixel of it: torch's bilinear upsampling. */
INLINE Tap upsample_tap(int at, int times, int cells) {
    float source = maxf((at + 0.5f) / times - 0.5f, 0);
    int before = clamp_index((int)source, cells);
    return (Tap){before, clamp_index(before + 1, cells), source - before};
}

/* One row of the decoder's output, per pixel; every line has ``wide`` floats. */
typedef struct {
    float *trust, *paint, *column, *line, *moved; /* paint and moved: three lines */
} Row;

/* Spread a row of cells over pixels. */
INLINE void upsample_row(const CameraData *camera, int row, const float *out, const float *latent,
                         const float *grid, const Tap *across, float *flow, int wide, Row to) {
    int patch = camera->patch, pool = camera->pool, block = patch * pool, cells = camera->columns / patch;
    int area = patch * patch, told = 2 + 4 * area;
    Tap along = upsample_tap(row, patch, camera->rows / patch);
    const float *above = out + (size_t)along.before * cells * told,
        *below = out + (size_t)along.after * cells * told;
    const float *line = out + (size_t)(row / patch) * cells * told + 2 + row % patch * patch;
    const float *sent = latent + (size_t)(row / block) * (cells / pool) * 3 * block * block
        + row % block * block;
    for (int cell = 0; cell < cells; cell++) {
        const float *here = line + (size_t)cell * told;
        const float *code = sent + (size_t)(cell / pool) * 3 * block * block + cell % pool * patch;
        for (int i = 0; i < 2; i++)
            flow[2 * cell + i] = 0.1f * lerp(above[cell * told + i], below[cell * told + i], along.share);
        for (int j = 0, x = cell * patch; j < patch; j++, x++) {
            to.trust[x] = here[j];
            for (int c = 0; c < 3; c++)
                to.paint[c * wide + x] = here[(c + 1) * area + j] + code[c * block * block + j];
        }
    }
    for (int x = 0; x < camera->columns; x++) {
        const float *first = flow + 2 * across[x].before, *second = flow + 2 * across[x].after;
        to.column[x] = grid[2 * x] + lerp(first[0], second[0], across[x].share);
        to.line[x] = grid[2 * x + 1] + lerp(first[1], second[1], across[x].share);
    }
}

/* Bicubic samples of the previous frame, channels last, for a row of pixels. */
INLINE void sample_previous_row(const CameraData *camera, const float *past, int wide, Row row) {
    int length = camera->columns + 2 * PAD;
    for (int begin = 0; begin < camera->columns; begin += LANES) {
        int32_t left[LANES], top[LANES];
        float across[4][LANES], along[4][LANES];
        vector weights[4];
        ivector first = cubic_tap(load(row.column + begin), camera->columns, weights);
        memcpy(left, &first, sizeof left);
        for (int i = 0; i < 4; i++) store(across[i], weights[i]);
        first = cubic_tap(load(row.line + begin), camera->rows, weights);
        memcpy(top, &first, sizeof top);
        for (int i = 0; i < 4; i++) store(along[i], weights[i]);
        for (int p = 0; p < LANES; p++) {
            const float *corner = past + 4 * ((size_t)top[p] * length + left[p]);
            rgbs lines = {0};
            for (int i = 0; i < 4; i++)
                lines += along[i][p] * *(const rgbs *)(corner + (size_t)4 * i * length);
            const rgb *parts = (const rgb *)&lines;
            rgb found = {0};
            for (int i = 0; i < 4; i++) found += across[i][p] * parts[i];
            for (int c = 0; c < 3; c++) row.moved[c * wide + begin + p] = found[c];
        }
    }
}

INLINE void blend_row(const CameraData *camera, const float *prior, const float *valid, int wide, Row row,
                      float *frame) {
    size_t plane = (size_t)camera->rows * camera->columns;
    for (int x = 0; x < camera->columns; x++) row.trust[x] += 2 * valid[x] - 1;
    for (int x = 0; x < wide; x += LANES) store(row.trust + x, sigmoid(load(row.trust + x)));
    for (int c = 0; c < 3; c++)
        for (int x = 0; x < camera->columns; x++)
            frame[c * plane + x] = clamp(lerp(prior[c * plane + x], row.moved[c * wide + x], row.trust[x])
                                         + row.paint[c * wide + x], -1, 1);
}

/* A row of a picture [3, rows, columns], channels last, with its edges; above the first and below the last is
   an edge of rows. */
INLINE void pad_row(const CameraData *camera, int row, const float *picture, float *to) {
    size_t plane = (size_t)camera->rows * camera->columns;
    const float *from = picture + (size_t)clamp_index(row - PAD, camera->rows) * camera->columns;
    interleave_row(from, plane, 0, camera->columns, to + 4 * PAD);
    for (int x = 0; x < PAD; x++) {
        memcpy(to + 4 * x, to + 4 * PAD, 16);
        memcpy(to + 4 * (camera->columns + PAD + x), to + 4 * (camera->columns + PAD - 1), 16);
    }
}

/* Floats of workspace that composing a view takes. */
size_t KERNEL(blend_workspace)(const CameraData *camera) {
    return (size_t)4 * (camera->rows + 2 * PAD) * (camera->columns + 2 * PAD);
}

/* All views. out [views, cells, 2 + 4 patch^2]; latent, the latent's own residual [views, tokens, 3 block^2];
   prior, past and frame [views, 3, rows, columns]; valid and grid as recall gives them. workspace is for the
   pasts. */
void KERNEL(blend)(const CameraData *camera, int views, const float *out, const float *latent,
                   const float *prior, const float *valid, const float *grid, const float *past, float *frame,
                   float *workspace) {
    int rows = camera->rows, columns = camera->columns, patch = camera->patch, block = patch * camera->pool;
    int high = rows + 2 * PAD, length = columns + 2 * PAD, wide = (columns + LANES - 1) / LANES * LANES;
    size_t plane = (size_t)rows * columns, told = plane / (patch * patch) * (2 + 4 * patch * patch);
    size_t sent = plane / (block * block) * (3 * block * block), edged = KERNEL(blend_workspace)(camera);
#pragma omp parallel
    {
        float lines[9][wide], flow[2 * columns / patch];
        Tap across[columns];
        Row to = {lines[0], lines[1], lines[4], lines[5], lines[6]};
        memset(lines, 0, sizeof lines);
        for (int x = 0; x < columns; x++) across[x] = upsample_tap(x, patch, columns / patch);
#pragma omp for schedule(static)
        for (int i = 0; i < views * high; i++)
            pad_row(camera, i % high, past + 3 * (i / high) * plane, workspace + 4 * (size_t)i * length);
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            int view = i / rows, row = i % rows;
            size_t line = (size_t)row * columns;
            upsample_row(camera, row, out + view * told, latent + view * sent,
                         grid + 2 * (view * plane + line), across, flow, wide, to);
            sample_previous_row(camera, workspace + view * edged, wide, to);
            blend_row(camera, prior + 3 * view * plane + line, valid + view * plane + line, wide, to,
                  frame + 3 * view * plane + line);
        }
    }
}
