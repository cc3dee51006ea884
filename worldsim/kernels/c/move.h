/* How keys move a camera: model/dynamics.py, model/footing.py, sampling/se3.py and what sampling/imagine.py makes of
   them, one world after another. Poses are float64, as there; what is learnt is float32. */

enum { FAN_RAYS = 16, FAN_RADII = 6, FELT_WAYS = 16, FELT_RADII = 4, SPOTS_OF_WAY = 16, NETWORK = 4, MOST_INNER = 1024 };
enum { AROUND = FAN_RAYS * FAN_RADII + CHANNELS, FELT = FELT_WAYS * FELT_RADII, MET = 6 };

static const float FAN[FAN_RADII] = {0.35f, 0.5f, 0.65f, 0.85f, 1.2f, 2.0f};
static const float FEELERS[FELT_RADII] = {0.04f, 0.12f, 0.25f, 0.45f};
static const double PI = 3.14159265358979323846;

typedef struct {
    const uint8_t *stood; /* [rows, columns] */
    int32_t rows, columns, reach;
    double x0, y0, cell;
} FootingData;

typedef struct {
    DenseData turn[NETWORK], push, rest[NETWORK], slip[NETWORK];
    double scale[6];
    int32_t keys, twists; /* keys and look; past twists */
    float eye, coasting;  /* below 0: no such rule */
} MotionData;

typedef struct {
    double x, y;
} Ground;

INLINE int is_ground(const FootingData *footing, double x, double y) {
    double column = floor((x - footing->x0) / footing->cell), row = floor((y - footing->y0) / footing->cell);
    int inside = row >= 0 && row < footing->rows && column >= 0 && column < footing->columns;
    return inside && footing->stood[(size_t)row * footing->columns + (size_t)column] > 0;
}

INLINE double into_cell(double value, double low, double cell) {
    double hair = cell * 1e-3, top = low + (cell - hair), bottom = low + hair, x = value < top ? value : top;
    return x > bottom ? x : bottom;
}

/* The nearest ground; the point itself where there is none in reach. */
INLINE Ground nearest(const FootingData *footing, Ground point) {
    double cell = footing->cell, least = INFINITY;
    double column = floor((point.x - footing->x0) / cell), row = floor((point.y - footing->y0) / cell);
    Ground found = point;
    for (int i = -footing->reach; i <= footing->reach; i++)
        for (int j = -footing->reach; j <= footing->reach; j++) {
            double r = row + i, c = column + j;
            if (!(r >= 0 && r < footing->rows && c >= 0 && c < footing->columns)) continue;
            if (!footing->stood[(size_t)r * footing->columns + (size_t)c]) continue;
            double x = into_cell(point.x, footing->x0 + c * cell, cell), y = into_cell(point.y, footing->y0 + r * cell, cell);
            double square = (x - point.x) * (x - point.x) + (y - point.y) * (y - point.y);
            if (square < least) least = square, found = (Ground){x, y};
        }
    return found;
}

/* What is around a camera: occupancy on a fan, ground features. */
INLINE void surround(const PlaceData *place, const float *planar, float *to) {
    float features[CHANNELS];
    for (int ray = 0; ray < FAN_RAYS; ray++) {
        float angle = ray * (float)(2 * PI / FAN_RAYS) + planar[3], cosine = cosf(angle), sine = sinf(angle);
        for (int i = 0; i < FAN_RADII; i++) {
            float x = (planar[0] + FAN[i] * cosine - place->x0) * place->across;
            float y = (planar[1] + FAN[i] * sine - place->y0) * place->along;
            to[ray * FAN_RADII + i] = tanhf(read1(place->occupancy, place->rows, place->columns, x, y));
        }
    }
    float x = (planar[0] - place->x0) * place->across, y = (planar[1] - place->y0) * place->along;
    read16(place->ground, place->rows, place->columns, x, y, features);
    for (int c = 0; c < CHANNELS; c++) to[FAN_RAYS * FAN_RADII + c] = tanhf(features[c]);
}

/* Whether there is ground around a camera. */
INLINE void feel(const FootingData *footing, const float *planar, float *to) {
    for (int way = 0; way < FELT_WAYS; way++) {
        float angle = planar[3] + way * (float)(2 * PI / FELT_WAYS), cosine = cosf(angle), sine = sinf(angle);
        for (int i = 0; i < FELT_RADII; i++)
            to[way * FELT_RADII + i] =
                is_ground(footing, planar[0] + FEELERS[i] * cosine, planar[1] + FEELERS[i] * sine);
    }
}

/* What is met on half of a way and on all of it: the share that is free, how far right and forward one is held back. */
INLINE void meet(const FootingData *footing, const float *planar, const float *moved, float *to) {
    double sine = sin((double)planar[3]), cosine = cos((double)planar[3]), right = moved[0], forward = moved[2];
    double x = right * sine + forward * cosine, y = forward * sine - right * cosine;
    for (int whole_way = 0; whole_way < 2; whole_way++) {
        double share = whole_way ? 1 : 0.5;
        int ground[SPOTS_OF_WAY + 1], free = 0;
        Ground spot = {0, 0}, back = {0, 0};
        for (int i = 0; i <= SPOTS_OF_WAY; i++) {
            double part = share * i / SPOTS_OF_WAY;
            spot = (Ground){planar[0] + x * part, planar[1] + y * part};
            ground[i] = is_ground(footing, spot.x, spot.y);
            if (i && free == i - 1 && ground[i]) free = i;
        }
        if (!ground[SPOTS_OF_WAY] && ground[0]) {
            Ground held = nearest(footing, spot);
            back = (Ground){held.x - spot.x, held.y - spot.y};
        }
        to[3 * whole_way] = (float)free / SPOTS_OF_WAY;
        to[3 * whole_way + 1] = back.x * sine - back.y * cosine;
        to[3 * whole_way + 2] = back.x * cosine + back.y * sine;
    }
}

/* atan2 through the half angle's tangent. */
INLINE double angle_of(double y, double x) {
    double size = sqrt(x * x + y * y), ahead = size + x, behind = fabs(y);
    double half = atan(x >= 0 ? behind / (ahead > 1e-300 ? ahead : 1e-300) : (size - x) / (behind > 1e-300 ? behind : 1e-300));
    return y >= 0 ? 2 * half : -2 * half;
}

INLINE void flatten(const double *pose, float *planar) {
    for (int i = 0; i < 3; i++) planar[i] = pose[4 * i + 3];
    planar[3] = angle_of(pose[6], pose[2]);
}

typedef struct {
    double at[9];
} Matrix;

INLINE Matrix times(Matrix a, Matrix b) {
    Matrix c;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) c.at[3 * i + j] = a.at[3 * i] * b.at[j] + a.at[3 * i + 1] * b.at[3 + j] + a.at[3 * i + 2] * b.at[6 + j];
    return c;
}

/* 1 + b w + c w^2 for the cross product w with a vector. */
INLINE Matrix turned_by(const double *omega, double b, double c) {
    double x = omega[0], y = omega[1], z = omega[2];
    Matrix w = {{0, -z, y, z, 0, -x, -y, x, 0}}, w2 = times(w, w), sum = {{1, 0, 0, 0, 1, 0, 0, 0, 1}};
    for (int i = 0; i < 9; i++) sum.at[i] += b * w.at[i] + c * w2.at[i];
    return sum;
}

INLINE void moved_by(Matrix by, const double *from, double *to) {
    for (int i = 0; i < 3; i++) to[i] = by.at[3 * i] * from[0] + by.at[3 * i + 1] * from[1] + by.at[3 * i + 2] * from[2];
}

INLINE double size_of(const double *v) { return sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

/* A twist to a pose. */
INLINE void expand(const double *twist, double *pose) {
    double angle = size_of(twist + 3), a2 = angle * angle, half = 0.5 * angle;
    double a = angle > 0 ? sin(angle) / angle : 1, c = angle > 0 ? sin(half) / half : 1, b = 0.5 * c * c;
    double rest = angle < 0.1 ? 1.0 / 6 - a2 / 120 + a2 * a2 / 5040 - a2 * a2 * a2 / 362880 : (angle - sin(angle)) / (a2 * angle);
    double shift[3];
    Matrix rotation = turned_by(twist + 3, a, b);
    moved_by(turned_by(twist + 3, b, rest), twist, shift);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) pose[4 * i + j] = rotation.at[3 * i + j];
        pose[4 * i + 3] = shift[i], pose[12 + i] = 0;
    }
    pose[15] = 1;
}

/* The translation of the twist to a pose whose rotation vector is known. */
INLINE void contract(const double *pose, const double *omega, double *rho) {
    double angle = size_of(omega), a2 = angle * angle, half = 0.5 * angle;
    double rest = angle < 0.1 ? 1.0 / 12 + a2 / 720 + a2 * a2 / 30240 + a2 * a2 * a2 / 1209600 : (1 - half / tan(half)) / a2;
    double shift[3] = {pose[3], pose[7], pose[11]};
    moved_by(turned_by(omega, -0.5, rest), shift, rho);
}

/* a b, and inverse(a) b. */
INLINE void chain(const double *a, const double *b, double *to) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            double total = 0;
            for (int k = 0; k < 4; k++) total += a[4 * i + k] * b[4 * k + j];
            to[4 * i + j] = total;
        }
}

INLINE void relate(const double *a, const double *b, double *to) {
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            double total = 0;
            for (int k = 0; k < 3; k++) total += a[4 * k + i] * (b[4 * k + j] - (j == 3 ? a[4 * k + 3] : 0));
            to[4 * i + j] = total;
        }
    for (int j = 0; j < 4; j++) to[12 + j] = j == 3;
}

/* Mean of sine and cosine over a turn, as a walker that turns meanwhile sees them. */
INLINE void mean_of_turn(float yaw, float *sine, float *cosine) {
    float half = yaw / 2;
    *sine = yaw != 0 ? sinf(yaw) / yaw : 1;
    *cosine = (half != 0 ? sinf(half) / half : 1) * sinf(half);
}

INLINE void as_moved(const float *twist, float yaw, float *moved) {
    float sine, cosine;
    mean_of_turn(yaw, &sine, &cosine);
    moved[0] = sine * twist[0] + cosine * twist[2], moved[1] = twist[1], moved[2] = sine * twist[2] - cosine * twist[0];
}

INLINE void as_twist(const float *moved, float yaw, float *twist) {
    float sine, cosine;
    mean_of_turn(yaw, &sine, &cosine);
    float size = sine * sine + cosine * cosine;
    twist[0] = (sine * moved[0] - cosine * moved[2]) / size, twist[1] = moved[1];
    twist[2] = (sine * moved[2] + cosine * moved[0]) / size;
}

/* Three SiLU layers and a last one. */
INLINE void think(const DenseData *layers, const float *from, float *to) {
    float one[MOST_INNER], two[MOST_INNER], *now = one, *next = two;
    for (int i = 0; i < NETWORK - 1; i++) {
        int outputs = layers[i].outputs;
        for (int panel = 0; panel < panels_of(outputs); panel++)
            panel_of(&layers[i], panel, i ? now : from, layers[i].inputs, 1, next + panel * PANEL, outputs);
        for (int c = 0; c < outputs; c += LANES) store(next + c, load(next + c) * sigmoid(load(next + c)));
        float *swapped = now;
        now = next, next = swapped;
    }
    panel_of(&layers[NETWORK - 1], 0, now, layers[NETWORK - 1].inputs, 1, to, layers[NETWORK - 1].outputs);
}

INLINE float softly(float x) { return log1pf(expf(x < 20 ? x : 20)); }

/* No longer than a share of what was. */
INLINE void slow(float *now, const float *before, float share) {
    float limit = share * sqrtf(before[0] * before[0] + before[1] * before[1] + before[2] * before[2]);
    float size = sqrtf(now[0] * now[0] + now[1] * now[1] + now[2] * now[2]), part = least(limit / most(size, 1e-9f), 1);
    for (int i = 0; i < 3; i++) now[i] *= part;
}

/* The next twist by dynamics, in metres and radians; what error it adds, and by how much it makes earlier ones grow.
   past [twists, 6] are the last ones, newest last; controls [twists + 1, keys]. */
INLINE void predict(const MotionData *motion, const FootingData *footing, const float *planar, const float *around,
                    const float *past, const float *controls, float *twist, float *errors) {
    int keys = motion->keys, twists = motion->twists, held = keys * (twists + 1) + 3 * twists, pushing = 3 * twists + 4 * keys;
    float state[MOST_INNER], *pushes = state + held, *pushed = pushes + pushing, *swing = pushed + 3;
    float turn[PANEL], told[PANEL], moved[PANEL], push[PANEL], met[MET], since = 0;
    const float *last = past + 6 * (twists - 1);
    memcpy(state, controls, keys * (twists + 1) * sizeof(float));
    for (int i = 0; i < twists; i++)
        for (int j = 0; j < 3; j++) state[keys * (twists + 1) + 3 * i + j] = 10 * past[6 * i + 3 + j];
    think(motion->turn, state, turn);
    for (int i = 0; i < 3; i++) turn[i] *= 0.1f;
    for (int i = 0; i < twists; i++) { /* newest first */
        const float *one = past + 6 * (twists - 1 - i);
        float at[3];
        as_moved(one, one[4], at);
        since += one[4];
        float sine = sinf(-since), cosine = cosf(-since);
        pushes[3 * i] = cosine * at[0] + sine * at[2], pushes[3 * i + 1] = at[1];
        pushes[3 * i + 2] = cosine * at[2] - sine * at[0];
    }
    for (int i = 0; i < 2; i++) {
        float yaw = i ? last[4] : turn[1], sine = sinf(yaw), cosine = cosf(yaw);
        for (int k = 0; k < keys; k++) {
            float key = controls[(twists - i) * keys + k];
            pushes[3 * twists + i * keys + k] = key * sine, pushes[3 * twists + (2 + i) * keys + k] = key * cosine;
        }
    }
    panel_of(&motion->push, 0, pushes, pushing, 1, push, 3);
    for (int i = 0; i < 3; i++) pushed[i] = 5 * push[i];
    float rise = planar[2] - motion->eye;
    swing[0] = 5 * rise, swing[1] = 5 * (rise + last[1]);
    swing[2] = 4 * (pushes[0] * pushes[0] + pushes[1] * pushes[1] + pushes[2] * pushes[2]);
    memcpy(swing + 3, around, (AROUND + FELT) * sizeof(float));
    meet(footing, planar, push, met);
    for (int i = 0; i < MET; i++) swing[3 + AROUND + FELT + i] = 5 * met[i];
    think(motion->rest, state, told);
    for (int i = 0; i < 3; i++) moved[i] = push[i] + 0.1f * told[i];
    think(motion->slip, state, told);
    errors[0] = 0.02f * softly(told[0]), errors[1] = 0.02f * softly(told[1]);
    as_twist(moved, turn[1], twist);
    memcpy(twist + 3, turn, 3 * sizeof(float));
    int idle = motion->coasting >= 0;
    for (int k = 0; k < keys; k++) idle = idle && controls[twists * keys + k] == 0;
    if (idle) slow(twist, last, motion->coasting), slow(twist + 3, last + 3, motion->coasting);
}

/* What is around cameras: planar [views, 4] to [views, AROUND]. */
void KERNEL(surroundings)(const PlaceData *place, const float *planar, int views, float *around) {
    for (int i = 0; i < views; i++) surround(place, planar + 4 * i, around + (size_t)i * AROUND);
}

/* A step of every camera, none fastest times longer than usual, and no doubt beyond lost metres. poses [worlds, 4, 4]; moves [worlds, twists, 6 + keys], normalised twists and keys; doubt
   [worlds]; vector [worlds, keys]. Gives the new poses, the normalised twist [worlds, 6], the doubt, planar [worlds, 4]
   and back [worlds, 4, 4], from the new camera to the old. */
void KERNEL(move)(const PlaceData *place, const FootingData *footing, const MotionData *motion, int worlds,
                  double fastest, float lost, const double *poses, const float *moves, const float *doubt,
                  const float *vector_of, double *to, float *twists, float *doubts, float *planars, float *backs) {
    int keys = motion->keys, count = motion->twists, wide = 6 + keys;
    for (int i = 0; i < worlds; i++) {
        const double *pose = poses + 16 * i;
        const float *lived = moves + (size_t)i * count * wide;
        double *stands = to + 16 * i, step[16], wanted[6];
        float planar[4], around[AROUND + FELT], past[MOST_INNER], controls[MOST_INNER], twist[6], errors[2];
        flatten(pose, planar);
        surround(place, planar, around);
        feel(footing, planar, around + AROUND);
        for (int j = 0; j < count; j++) {
            for (int k = 0; k < 6; k++) past[6 * j + k] = lived[j * wide + k] * (float)motion->scale[k];
            memcpy(controls + j * keys, lived + j * wide + 6, keys * sizeof(float));
        }
        memcpy(controls + count * keys, vector_of + (size_t)i * keys, keys * sizeof(float));
        predict(motion, footing, planar, around, past, controls, twist, errors);
        doubts[i] = least(doubt[i] * (1 + errors[1]) + errors[0], lost);
        for (int k = 0; k < 6; k++) {
            double most_of = fastest * motion->scale[k], x = twist[k];
            wanted[k] = x > -most_of ? (x < most_of ? x : most_of) : -most_of;
        }
        expand(wanted, step);
        chain(pose, step, stands);
        if (is_ground(footing, pose[3], pose[7]) && !is_ground(footing, stands[3], stands[7])) {
            Ground held = nearest(footing, (Ground){stands[3], stands[7]});
            stands[3] = held.x, stands[7] = held.y;
            relate(pose, stands, step);
            contract(step, wanted + 3, wanted);
        }
        for (int k = 0; k < 6; k++) twists[6 * i + k] = wanted[k] / (motion->scale[k] > 0 ? motion->scale[k] : 1);
        flatten(stands, planars + 4 * i);
        for (int k = 0; k < 16; k++) backs[16 * i + k] = step[k];
    }
}
