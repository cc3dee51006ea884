/* Camera motion, one world after another. See model/dynamics.py, scene/walkable_map.py, sampling/se3.py and
   sampling/motion.py. Poses are float64, networks float32. */

enum { FAN_RAYS = 16, FAN_RADII = 6, WALKABLE_RAYS = 16, WALKABLE_RADII = 4, PATH_SAMPLES = 16 };
enum { MLP_LAYERS = 4, MAX_WIDTH = 1024 };
enum { SCENE_FEATURE_DIM = FAN_RAYS * FAN_RADII + CHANNELS };
enum { WALKABLE_DIM = WALKABLE_RAYS * WALKABLE_RADII, COLLISION_DIM = 6 };

static const float SCENE_FAN[FAN_RADII] = {0.35f, 0.5f, 0.65f, 0.85f, 1.2f, 2.0f};
static const float WALKABLE_FAN[WALKABLE_RADII] = {0.04f, 0.12f, 0.25f, 0.45f};
static const double PI = 3.14159265358979323846;

typedef struct {
    const uint8_t *visited; /* [rows, columns] */
    int32_t rows, columns, reach;
    double x0, y0, cell;
} WalkableMapData;

typedef struct {
    DenseData rotation[MLP_LAYERS], linear, residual[MLP_LAYERS], error[MLP_LAYERS];
    double scale[6];
    int32_t keys, twists; /* keys and yaw; past twists */
    float camera_height, idle_damping; /* idle_damping below 0: none */
} MotionData;

typedef struct {
    double x, y;
} Point;

INLINE int is_ground(const WalkableMapData *map, double x, double y) {
    double column = floor((x - map->x0) / map->cell), row = floor((y - map->y0) / map->cell);
    int inside = row >= 0 && row < map->rows && column >= 0 && column < map->columns;
    return inside && map->visited[(size_t)row * map->columns + (size_t)column] > 0;
}

INLINE double clamp_to_cell(double value, double low, double cell) {
    double hair = cell * 1e-3, top = low + (cell - hair), bottom = low + hair, x = value < top ? value : top;
    return x > bottom ? x : bottom;
}

/* The nearest visited point; the point itself where there is none in reach. */
INLINE Point nearest_ground(const WalkableMapData *map, Point point) {
    double cell = map->cell, least = INFINITY;
    double column = floor((point.x - map->x0) / cell), row = floor((point.y - map->y0) / cell);
    Point found = point;
    for (int i = -map->reach; i <= map->reach; i++)
        for (int j = -map->reach; j <= map->reach; j++) {
            double r = row + i, c = column + j;
            if (!(r >= 0 && r < map->rows && c >= 0 && c < map->columns)) continue;
            if (!map->visited[(size_t)r * map->columns + (size_t)c]) continue;
            double x = clamp_to_cell(point.x, map->x0 + c * cell, cell),
                y = clamp_to_cell(point.y, map->y0 + r * cell, cell);
            double square = (x - point.x) * (x - point.x) + (y - point.y) * (y - point.y);
            if (square < least) least = square, found = (Point){x, y};
        }
    return found;
}

/* Scene features of a camera: occupancy on a fan, ground features. */
INLINE void scene_features(const SceneData *scene, const float *planar, float *to) {
    float features[CHANNELS];
    for (int ray = 0; ray < FAN_RAYS; ray++) {
        float angle = ray * (float)(2 * PI / FAN_RAYS) + planar[3], cosine = cosf(angle), sine = sinf(angle);
        for (int i = 0; i < FAN_RADII; i++) {
            float x = (planar[0] + SCENE_FAN[i] * cosine - scene->centre_x) * scene->scale_x;
            float y = (planar[1] + SCENE_FAN[i] * sine - scene->centre_y) * scene->scale_y;
            to[ray * FAN_RADII + i] = tanhf(sample1(scene->occupancy, scene->rows, scene->columns, x, y));
        }
    }
    float x = (planar[0] - scene->centre_x) * scene->scale_x,
        y = (planar[1] - scene->centre_y) * scene->scale_y;
    sample16(scene->ground_plane, scene->rows, scene->columns, x, y, features);
    for (int c = 0; c < CHANNELS; c++) to[FAN_RAYS * FAN_RADII + c] = tanhf(features[c]);
}

/* Whether there is ground features a camera. */
INLINE void walkable_features(const WalkableMapData *map, const float *planar, float *to) {
    for (int way = 0; way < WALKABLE_RAYS; way++) {
        float angle = planar[3] + way * (float)(2 * PI / WALKABLE_RAYS), cosine = cosf(angle),
            sine = sinf(angle);
        for (int i = 0; i < WALKABLE_RADII; i++)
            to[way * WALKABLE_RADII + i] =
                is_ground(map, planar[0] + WALKABLE_FAN[i] * cosine, planar[1] + WALKABLE_FAN[i] * sine);
    }
}

/* Collision features of half a displacement and of all of it: free share, and how far right and forward the
   map holds the camera back. */
INLINE void collision_features(const WalkableMapData *map, const float *planar, const float *moved,
                               float *to) {
    double sine = sin((double)planar[3]), cosine = cos((double)planar[3]), right = moved[0],
        forward = moved[2];
    double x = right * sine + forward * cosine, y = forward * sine - right * cosine;
    for (int whole_way = 0; whole_way < 2; whole_way++) {
        double share = whole_way ? 1 : 0.5;
        int ground[PATH_SAMPLES + 1], free = 0;
        Point spot = {0, 0}, back = {0, 0};
        for (int i = 0; i <= PATH_SAMPLES; i++) {
            double part = share * i / PATH_SAMPLES;
            spot = (Point){planar[0] + x * part, planar[1] + y * part};
            ground[i] = is_ground(map, spot.x, spot.y);
            if (i && free == i - 1 && ground[i]) free = i;
        }
        if (!ground[PATH_SAMPLES] && ground[0]) {
            Point nearest = nearest_ground(map, spot);
            back = (Point){nearest.x - spot.x, nearest.y - spot.y};
        }
        to[3 * whole_way] = (float)free / PATH_SAMPLES;
        to[3 * whole_way + 1] = back.x * sine - back.y * cosine;
        to[3 * whole_way + 2] = back.x * cosine + back.y * sine;
    }
}

/* atan2 through the half angle's tangent. */
INLINE double angle_of(double y, double x) {
    double size = sqrt(x * x + y * y), ahead = size + x, behind = fabs(y);
    double half = atan(x >= 0 ? behind / (ahead > 1e-300 ? ahead : 1e-300)
                       : (size - x) / (behind > 1e-300 ? behind : 1e-300));
    return y >= 0 ? 2 * half : -2 * half;
}

INLINE void planar_of(const double *pose, float *planar) {
    for (int i = 0; i < 3; i++) planar[i] = pose[4 * i + 3];
    planar[3] = angle_of(pose[6], pose[2]);
}

typedef struct {
    double at[9];
} Matrix;

INLINE Matrix matmul3(Matrix a, Matrix b) {
    Matrix c;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            c.at[3 * i + j] = a.at[3 * i] * b.at[j] + a.at[3 * i + 1] * b.at[3 + j]
                + a.at[3 * i + 2] * b.at[6 + j];
    return c;
}

/* 1 + b w + c w^2 for the cross product w with a vector. */
INLINE Matrix rotation_series(const double *omega, double b, double c) {
    double x = omega[0], y = omega[1], z = omega[2];
    Matrix w = {{0, -z, y, z, 0, -x, -y, x, 0}}, w2 = matmul3(w, w), sum = {{1, 0, 0, 0, 1, 0, 0, 0, 1}};
    for (int i = 0; i < 9; i++) sum.at[i] += b * w.at[i] + c * w2.at[i];
    return sum;
}

INLINE void apply3(Matrix by, const double *from, double *to) {
    for (int i = 0; i < 3; i++)
        to[i] = by.at[3 * i] * from[0] + by.at[3 * i + 1] * from[1] + by.at[3 * i + 2] * from[2];
}

INLINE double norm3(const double *v) { return sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

/* A twist to a pose. */
INLINE void se3_exp(const double *twist, double *pose) {
    double angle = norm3(twist + 3), a2 = angle * angle, half = 0.5 * angle;
    double a = angle > 0 ? sin(angle) / angle : 1, c = angle > 0 ? sin(half) / half : 1, b = 0.5 * c * c;
    double rest = angle < 0.1 ? 1.0 / 6 - a2 / 120 + a2 * a2 / 5040 - a2 * a2 * a2 / 362880
        : (angle - sin(angle)) / (a2 * angle);
    double shift[3];
    Matrix rotation = rotation_series(twist + 3, a, b);
    apply3(rotation_series(twist + 3, b, rest), twist, shift);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) pose[4 * i + j] = rotation.at[3 * i + j];
        pose[4 * i + 3] = shift[i], pose[12 + i] = 0;
    }
    pose[15] = 1;
}

/* The translation of the twist to a pose whose rotation vector is known. */
INLINE void se3_log_translation(const double *pose, const double *omega, double *rho) {
    double angle = norm3(omega), a2 = angle * angle, half = 0.5 * angle;
    double rest = angle < 0.1 ? 1.0 / 12 + a2 / 720 + a2 * a2 / 30240 + a2 * a2 * a2 / 1209600
        : (1 - half / tan(half)) / a2;
    double shift[3] = {pose[3], pose[7], pose[11]};
    apply3(rotation_series(omega, -0.5, rest), shift, rho);
}

/* a b, and inverse(a) b. */
INLINE void compose_poses(const double *a, const double *b, double *to) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            double total = 0;
            for (int k = 0; k < 4; k++) total += a[4 * i + k] * b[4 * k + j];
            to[4 * i + j] = total;
        }
}

INLINE void relative_pose(const double *a, const double *b, double *to) {
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            double total = 0;
            for (int k = 0; k < 3; k++) total += a[4 * k + i] * (b[4 * k + j] - (j == 3 ? a[4 * k + 3] : 0));
            to[4 * i + j] = total;
        }
    for (int j = 0; j < 4; j++) to[12 + j] = j == 3;
}

/* Mean of sine and cosine over a turn, as a walker that turns meanwhile sees them. */
INLINE void arc_factors(float yaw, float *sine, float *cosine) {
    float half = yaw / 2;
    *sine = yaw != 0 ? sinf(yaw) / yaw : 1;
    *cosine = (half != 0 ? sinf(half) / half : 1) * sinf(half);
}

INLINE void displacement_from_twist(const float *twist, float yaw, float *moved) {
    float sine, cosine;
    arc_factors(yaw, &sine, &cosine);
    moved[0] = sine * twist[0] + cosine * twist[2], moved[1] = twist[1],
        moved[2] = sine * twist[2] - cosine * twist[0];
}

INLINE void twist_from_displacement(const float *moved, float yaw, float *twist) {
    float sine, cosine;
    arc_factors(yaw, &sine, &cosine);
    float size = sine * sine + cosine * cosine;
    twist[0] = (sine * moved[0] - cosine * moved[2]) / size, twist[1] = moved[1];
    twist[2] = (sine * moved[2] + cosine * moved[0]) / size;
}

/* Three SiLU layers and a last one. */
INLINE void run_mlp(const DenseData *layers, const float *from, float *to) {
    float one[MAX_WIDTH], two[MAX_WIDTH], *now = one, *next = two;
    for (int i = 0; i < MLP_LAYERS - 1; i++) {
        int outputs = layers[i].outputs;
        for (int panel = 0; panel < panels_of(outputs); panel++)
            panel_of(&layers[i], panel, i ? now : from, layers[i].inputs, 1, next + panel * PANEL, outputs);
        for (int c = 0; c < outputs; c += LANES) store(next + c, load(next + c) * sigmoid(load(next + c)));
        float *swapped = now;
        now = next, next = swapped;
    }
    panel_of(&layers[MLP_LAYERS - 1], 0, now, layers[MLP_LAYERS - 1].inputs, 1, to,
             layers[MLP_LAYERS - 1].outputs);
}

INLINE float softplus(float x) { return log1pf(expf(x < 20 ? x : 20)); }

/* Scale ``now`` down to at most a share of the length of ``before``. */
INLINE void damp(float *now, const float *before, float share) {
    float limit = share * sqrtf(before[0] * before[0] + before[1] * before[1] + before[2] * before[2]);
    float size = sqrtf(now[0] * now[0] + now[1] * now[1] + now[2] * now[2]),
        part = minf(limit / maxf(size, 1e-9f), 1);
    for (int i = 0; i < 3; i++) now[i] *= part;
}

/* The next twist by dynamics, in metres and radians; the error that it adds, and the growth of earlier
   errors. past [twists, 6] are the last ones, newest last; controls [twists + 1, keys]. */
INLINE void predict_motion(const MotionData *motion, const WalkableMapData *map, const float *planar,
                           const float *features, const float *past, const float *controls, float *twist,
                           float *errors) {
    int keys = motion->keys, twists = motion->twists, rotation_count = keys * (twists + 1) + 3 * twists,
        linear_count = 3 * twists + 4 * keys;
    float state[MAX_WIDTH], *linear_inputs = state + rotation_count,
        *linear_out = linear_inputs + linear_count, *swing = linear_out + 3;
    float turn[PANEL], told[PANEL], moved[PANEL], push[PANEL], met[COLLISION_DIM], since = 0;
    const float *last = past + 6 * (twists - 1);
    memcpy(state, controls, keys * (twists + 1) * sizeof(float));
    for (int i = 0; i < twists; i++)
        for (int j = 0; j < 3; j++) state[keys * (twists + 1) + 3 * i + j] = 10 * past[6 * i + 3 + j];
    run_mlp(motion->rotation, state, turn);
    for (int i = 0; i < 3; i++) turn[i] *= 0.1f;
    for (int i = 0; i < twists; i++) { /* newest first */
        const float *one = past + 6 * (twists - 1 - i);
        float at[3];
        displacement_from_twist(one, one[4], at);
        since += one[4];
        float sine = sinf(-since), cosine = cosf(-since);
        linear_inputs[3 * i] = cosine * at[0] + sine * at[2], linear_inputs[3 * i + 1] = at[1];
        linear_inputs[3 * i + 2] = cosine * at[2] - sine * at[0];
    }
    for (int i = 0; i < 2; i++) {
        float yaw = i ? last[4] : turn[1], sine = sinf(yaw), cosine = cosf(yaw);
        for (int k = 0; k < keys; k++) {
            float key = controls[(twists - i) * keys + k];
            linear_inputs[3 * twists + i * keys + k] = key * sine,
                linear_inputs[3 * twists + (2 + i) * keys + k] = key * cosine;
        }
    }
    panel_of(&motion->linear, 0, linear_inputs, linear_count, 1, push, 3);
    for (int i = 0; i < 3; i++) linear_out[i] = 5 * push[i];
    float rise = planar[2] - motion->camera_height;
    swing[0] = 5 * rise, swing[1] = 5 * (rise + last[1]);
    swing[2] = 4 * (linear_inputs[0] * linear_inputs[0] + linear_inputs[1] * linear_inputs[1]
                    + linear_inputs[2] * linear_inputs[2]);
    memcpy(swing + 3, features, (SCENE_FEATURE_DIM + WALKABLE_DIM) * sizeof(float));
    collision_features(map, planar, push, met);
    for (int i = 0; i < COLLISION_DIM; i++) swing[3 + SCENE_FEATURE_DIM + WALKABLE_DIM + i] = 5 * met[i];
    run_mlp(motion->residual, state, told);
    for (int i = 0; i < 3; i++) moved[i] = push[i] + 0.1f * told[i];
    run_mlp(motion->error, state, told);
    errors[0] = 0.02f * softplus(told[0]), errors[1] = 0.02f * softplus(told[1]);
    twist_from_displacement(moved, turn[1], twist);
    memcpy(twist + 3, turn, 3 * sizeof(float));
    int idle = motion->idle_damping >= 0;
    for (int k = 0; k < keys; k++) idle = idle && controls[twists * keys + k] == 0;
    if (idle) damp(twist, last, motion->idle_damping), damp(twist + 3, last + 3, motion->idle_damping);
}

/* Scene features: planar [views, 4] to [views, SCENE_FEATURE_DIM]. */
void KERNEL(scene_features)(const SceneData *scene, const float *planar, int views, float *features) {
    for (int i = 0; i < views; i++)
        scene_features(scene, planar + 4 * i, features + (size_t)i * SCENE_FEATURE_DIM);
}

/* A step of every camera: at most max_ratio times a typical step, uncertainty at most max_uncertainty metres.
   poses [worlds, 4, 4]; moves [worlds, twists, 6 + keys], normalised twists and keys; uncertainty [worlds];
   vector_of [worlds, keys]. Gives new poses, normalised twists [worlds, 6], uncertainties, planars [worlds,
   4] and backs [worlds, 4, 4], from the new camera to the old. */
void KERNEL(move_cameras)(const SceneData *scene, const WalkableMapData *map, const MotionData *motion,
                          int worlds, double max_ratio, float max_uncertainty, const double *poses,
                          const float *moves, const float *uncertainty, const float *vector_of, double *to,
                          float *twists, float *uncertainties, float *planars, float *backs) {
    int keys = motion->keys, count = motion->twists, wide = 6 + keys;
    for (int i = 0; i < worlds; i++) {
        const double *pose = poses + 16 * i;
        const float *history = moves + (size_t)i * count * wide;
        double *pose_now = to + 16 * i, step[16], wanted[6];
        float planar[4], features[SCENE_FEATURE_DIM + WALKABLE_DIM], past[MAX_WIDTH], controls[MAX_WIDTH],
            twist[6], errors[2];
        planar_of(pose, planar);
        scene_features(scene, planar, features);
        walkable_features(map, planar, features + SCENE_FEATURE_DIM);
        for (int j = 0; j < count; j++) {
            for (int k = 0; k < 6; k++) past[6 * j + k] = history[j * wide + k] * (float)motion->scale[k];
            memcpy(controls + j * keys, history + j * wide + 6, keys * sizeof(float));
        }
        memcpy(controls + count * keys, vector_of + (size_t)i * keys, keys * sizeof(float));
        predict_motion(motion, map, planar, features, past, controls, twist, errors);
        uncertainties[i] = minf(uncertainty[i] * (1 + errors[1]) + errors[0], max_uncertainty);
        for (int k = 0; k < 6; k++) {
            double most_of = max_ratio * motion->scale[k], x = twist[k];
            wanted[k] = x > -most_of ? (x < most_of ? x : most_of) : -most_of;
        }
        se3_exp(wanted, step);
        compose_poses(pose, step, pose_now);
        if (is_ground(map, pose[3], pose[7]) && !is_ground(map, pose_now[3], pose_now[7])) {
            Point nearest = nearest_ground(map, (Point){pose_now[3], pose_now[7]});
            pose_now[3] = nearest.x, pose_now[7] = nearest.y;
            relative_pose(pose, pose_now, step);
            se3_log_translation(step, wanted + 3, wanted);
        }
        for (int k = 0; k < 6; k++)
            twists[6 * i + k] = wanted[k] / (motion->scale[k] > 0 ? motion->scale[k] : 1);
        planar_of(pose_now, planars + 4 * i);
        for (int k = 0; k < 16; k++) backs[16 * i + k] = step[k];
    }
}
