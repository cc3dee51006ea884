/* What the past shows of a new frame: the previous one, moved along with the camera by the new one's depth.
   See HistoryTokenizer._reproject in tokenizer/history.py. */

typedef struct {
    const float *right, *down; /* rays, per unit of forward depth [columns], [rows] */
    int32_t rows, columns, patch, pool;
    float across, along, left, top; /* a ray's direction to [-1, 1]: scaled, then moved */
} CameraData;

INLINE float far_one(float x) { return within(x, -2, 2); }

INLINE void recall_along(const CameraData *camera, const float *back, int row, const float *reach, const float *frame,
                         const float *past_reach, float *warped, float *valid, float *grid) {
    int count = camera->columns, rows = camera->rows;
    size_t plane = (size_t)rows * count;
    float down = camera->down[row];
    float from_x = back[1] * down + back[2], from_y = back[5] * down + back[6], from_z = back[9] * down + back[10];
    for (int begin = 0; begin < count; begin += LANES) {
        int pixels = count - begin < LANES ? count - begin : LANES;
        float column[LANES], line[LANES], depth[LANES], error[LANES], right[LANES] = {0}, far[LANES] = {0}, trust[LANES];
        memcpy(far, reach + begin, pixels * sizeof(float));
        memcpy(right, camera->right + begin, pixels * sizeof(float));
        vector ray = load(right), until = load(far), x = (back[0] * ray + from_x) * until + back[3];
        vector y = (back[4] * ray + from_y) * until + back[7], z = (back[8] * ray + from_z) * until + back[11];
        vector front = greater(z, all(0.05f));
        store(depth, z);
        store(column, x / front * camera->across + camera->left);
        store(line, y / front * camera->along + camera->top);
        for (int i = 0; i < pixels; i++) {
            Spot across = placed(column[i], count), along = placed(line[i], rows);
            size_t a = (size_t)along.before * count, b = (size_t)along.after * count;
            float seen = between(past_reach, a, b, across, along.share);
            int known = fabsf(column[i]) <= 1 && fabsf(line[i]) <= 1 && depth[i] > 0.05f && seen > 0;
            error[i] = known ? fabsf(seen - depth[i]) : INFINITY;
            for (int c = 0; c < 3; c++)
                warped[c * plane + begin + i] = between(frame + c * plane, a, b, across, along.share);
            grid[2 * (begin + i)] = far_one(column[i]), grid[2 * (begin + i) + 1] = far_one(line[i]);
        }
        for (int i = pixels; i < LANES; i++) error[i] = INFINITY;
        vector wrong = load(error) / front - 0.05f;
        vector belief = exponential(-4 * greater(wrong, all(0)));
        store(trust, chosen(wrong < 20, belief, all(0))); /* beyond that it is 0 anyhow */
        memcpy(valid + begin, trust, pixels * sizeof(float));
    }
}

/* Mean of a cell of a picture. */
INLINE float pooled(const float *picture, int columns, int patch) {
    float total = 0;
    for (int y = 0; y < patch; y++)
        for (int x = 0; x < patch; x++) total += picture[(size_t)y * columns + x];
    return total / (patch * patch);
}

/* All views. reach and past_reach [views, rows, columns], back [views, 4, 4], prior, frame and warped [views, 3,
   rows, columns], valid [views, rows, columns], grid [views, rows, columns, 2]; tokens [views, tokens, 6 pool^2]:
   means of the cells of prior and warped. */
void KERNEL(recall)(const CameraData *camera, const float *back, int views, const float *reach, const float *prior,
                    const float *frame, const float *past_reach, float *warped, float *valid, float *grid,
                    float *tokens) {
    int rows = camera->rows, columns = camera->columns, patch = camera->patch, pool = camera->pool;
    int high = rows / patch / pool, wide = columns / patch / pool, area = pool * pool;
    size_t plane = (size_t)rows * columns;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            int view = i / rows, row = i % rows;
            size_t line = (size_t)row * columns;
            recall_along(camera, back + 16 * view, row, reach + view * plane + line, frame + 3 * view * plane,
                         past_reach + view * plane, warped + 3 * view * plane + line, valid + view * plane + line,
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
                        pooled(picture + (size_t)top * columns + left, columns, patch);
                }
            }
        }
    }
}
