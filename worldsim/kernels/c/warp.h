/* Warp of the previous frame to the new camera by the new frame's depth.
   See HistoryTokenizer._reproject in tokenizer/history.py. */

typedef struct {
    const float *right, *down; /* rays, per unit of forward depth [columns], [rows] */
    int32_t rows, columns, patch, pool;
    float across, along, left, top; /* a ray's direction to [-1, 1]: scaled, then moved */
} CameraData;

/* A pixel: three colours and their depth, or none. */
typedef float rgb __attribute__((vector_size(16), aligned(4), may_alias));

/* A row of a picture [3, rows, columns], with a fourth channel or 0, channels last. */
INLINE void interleave_row(const float *picture, size_t plane, const float *fourth, int count, float *to) {
    for (int x = 0; x < count; x++) {
        to[4 * x] = picture[x], to[4 * x + 1] = picture[plane + x], to[4 * x + 2] = picture[2 * plane + x];
        to[4 * x + 3] = fourth ? fourth[x] : 0;
    }
}

/* ``axis_tap`` for a register: the cells before and after, and the share of the second. */
INLINE vector axis_taps(vector x, int cells, int32_t *before, int32_t *after) {
    vector at = vmin(vmax(((x + 1) * (float)cells - 1) * 0.5f, splat(0)), splat(cells - 1));
    ivector first = __builtin_convertvector(at, ivector), second = first - (first < cells - 1);
    memcpy(before, &first, sizeof first), memcpy(after, &second, sizeof second);
    return at - __builtin_convertvector(first, vector);
}

INLINE vector vabs(vector x) { return vmax(x, -x); }

/* past is the previous frame with its depth, channels last. */
INLINE void warp_row(const CameraData *camera, const float *back, int row, const float *reach,
                     const float *past, float *warped, float *valid, float *grid) {
    int count = camera->columns, rows = camera->rows;
    size_t plane = (size_t)rows * count;
    float down = camera->down[row];
    float from_x = back[1] * down + back[2], from_y = back[5] * down + back[6],
        from_z = back[9] * down + back[10];
    for (int begin = 0; begin < count; begin += LANES) {
        int pixels = count - begin < LANES ? count - begin : LANES;
        int32_t left[LANES], right[LANES], top[LANES], bottom[LANES];
        float column[LANES], line[LANES], across[LANES], along[LANES], far[LANES] = {0}, rays[LANES] = {0};
        float seen[LANES], trust[LANES];
        memcpy(far, reach + begin, pixels * sizeof(float));
        memcpy(rays, camera->right + begin, pixels * sizeof(float));
        vector ray = load(rays), until = load(far), x = (back[0] * ray + from_x) * until + back[3];
        vector y = (back[4] * ray + from_y) * until + back[7],
            z = (back[8] * ray + from_z) * until + back[11];
        vector front = vmax(z, splat(0.05f));
        vector u = x / front * camera->across + camera->left, v = y / front * camera->along + camera->top;
        store(across, axis_taps(u, count, left, right));
        store(along, axis_taps(v, rows, top, bottom));
        store(column, vmin(vmax(u, splat(-2)), splat(2)));
        store(line, vmin(vmax(v, splat(-2)), splat(2)));
        for (int i = 0; i < pixels; i++) {
            const float *above = past + (size_t)4 * top[i] * count,
                *below = past + (size_t)4 * bottom[i] * count;
            rgb nw = *(const rgb *)(above + 4 * left[i]), ne = *(const rgb *)(above + 4 * right[i]);
            rgb sw = *(const rgb *)(below + 4 * left[i]), se = *(const rgb *)(below + 4 * right[i]);
            rgb first = nw + across[i] * (ne - nw), second = sw + across[i] * (se - sw);
            rgb found = first + along[i] * (second - first);
            for (int c = 0; c < 3; c++) warped[c * plane + begin + i] = found[c];
            seen[i] = found[3];
            grid[2 * (begin + i)] = column[i], grid[2 * (begin + i) + 1] = line[i];
        }
        for (int i = pixels; i < LANES; i++) seen[i] = 0;
        vector depth = load(seen), wrong = vabs(depth - z) / front - 0.05f;
        vector belief = vexp(-4 * vmax(wrong, splat(0)));
        ivector known = (vabs(u) <= 1) & (vabs(v) <= 1) & (z > 0.05f) & (depth > 0);
        known &= wrong < 20; /* beyond that it is 0 anyhow */
        store(trust, vselect(known, belief, splat(0)));
        memcpy(valid + begin, trust, pixels * sizeof(float));
    }
}

/* Mean of a cell of a picture. */
INLINE float cell_mean(const float *picture, int columns, int patch) {
    float total = 0;
    for (int y = 0; y < patch; y++)
        for (int x = 0; x < patch; x++) total += picture[(size_t)y * columns + x];
    return total / (patch * patch);
}

/* All views. reach and past_reach [views, rows, columns], back [views, 4, 4], prior, frame and warped [views,
   3, rows, columns], valid [views, rows, columns], grid [views, rows, columns, 2]; tokens [views, tokens, 6
   pool^2]: means of the cells of prior and warped. workspace is for four floats a pixel. */
void KERNEL(warp)(const CameraData *camera, const float *back, int views, const float *reach,
                  const float *prior, const float *frame, const float *past_reach, float *warped,
                  float *valid, float *grid, float *tokens, float *workspace) {
    int rows = camera->rows, columns = camera->columns, patch = camera->patch, pool = camera->pool;
    int high = rows / patch / pool, wide = columns / patch / pool, area = pool * pool;
    size_t plane = (size_t)rows * columns;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            size_t view = i / rows, line = (size_t)(i % rows) * columns;
            interleave_row(frame + 3 * view * plane + line, plane, past_reach + view * plane + line, columns,
                   workspace + 4 * (view * plane + line));
        }
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            int view = i / rows, row = i % rows;
            size_t line = (size_t)row * columns;
            warp_row(camera, back + 16 * view, row, reach + view * plane + line, workspace + 4 * view * plane,
                         warped + 3 * view * plane + line, valid + view * plane + line,
                         grid + 2 * (view * plane + line));
        }
#pragma omp for schedule(static)
        for (int i = 0; i < views * high * wide; i++) {
            int view = i / (high * wide), y = i / wide % high, x = i % wide;
            for (int c = 0; c < 6; c++) {
                const float *picture = (c < 3 ? prior : warped) + (3 * view + c % 3) * plane;
                for (int cell = 0; cell < area; cell++) {
                    int top = (y * pool + cell / pool) * patch, left = (x * pool + cell % pool) * patch;
                    tokens[(size_t)i * 6 * area + c * area + cell] =
                        cell_mean(picture + (size_t)top * columns + left, columns, patch);
                }
            }
        }
    }
}
