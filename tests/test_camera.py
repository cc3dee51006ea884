from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim import camera, config
from worldsim.camera import Intrinsics
from worldsim.errors import CameraError

PI = math.pi
K = Intrinsics.from_fov(PI / 2, w=16, h=12)

coordinates = st.floats(-50, 50)
# Everywhere, and where the formulas change over or lose digits: at 0, at the series' border, just below pi.
near_zero = st.floats(0, 1e-6)
near_border = st.floats(0.0999, 0.1001)
near_pi = st.floats(0, 1e-6).map(lambda gap: PI - gap)
angles = st.floats(0, PI) | near_zero | near_border | near_pi


@st.composite
def axes(draw: st.DrawFn) -> np.ndarray:
    azimuth, height = draw(st.floats(-PI, PI)), draw(st.floats(-1, 1))
    ring = math.sqrt(1 - height**2)
    return np.array([ring * math.cos(azimuth), ring * math.sin(azimuth), height])


@st.composite
def twists(draw: st.DrawFn) -> np.ndarray:
    rho = [draw(coordinates) for _ in range(3)]
    return np.concatenate([rho, draw(angles) * draw(axes())])


poses = twists().map(camera.exp)


def rodrigues(omega: np.ndarray) -> np.ndarray:
    """The rotation by its matrix power series, in 60 terms: slow, and independent of every closed form."""
    x, y, z = omega
    hat = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    total, term = np.eye(3), np.eye(3)
    for n in range(1, 60):
        term = term @ hat / n
        total = total + term
    return total


@given(twists())
def test_exp_is_the_matrix_exponential_and_a_pose(xi: np.ndarray) -> None:
    pose = camera.check_pose(camera.exp(xi))
    np.testing.assert_allclose(pose[:3, :3], rodrigues(xi[3:]), atol=1e-12)
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-13)


@given(twists())
def test_log_undoes_exp(xi: np.ndarray) -> None:
    back = camera.log(camera.exp(xi))
    # At a half turn the axis and its opposite are the same rotation; then only the pose can come back.
    if np.linalg.norm(xi[3:]) < PI - 1e-9:
        np.testing.assert_allclose(back, xi, atol=1e-10)
    np.testing.assert_allclose(camera.exp(back), camera.exp(xi), atol=1e-10)


@pytest.mark.parametrize("angle", [0, 1e-300, 1e-12, 1e-8, 1e-4, 0.1, 1.0, PI - 1e-4, PI - 1e-8, PI])
def test_the_hard_angles(angle: float) -> None:
    for axis in np.concatenate([np.eye(3), -np.eye(3), [[0.6, 0, -0.8]], [[1 / 3, -2 / 3, 2 / 3]]]):
        pose = camera.exp(np.concatenate([[3, -2, 1], angle * axis]))
        omega = camera.log(pose)[3:]
        assert np.linalg.norm(omega) == pytest.approx(angle, abs=1e-14)
        np.testing.assert_allclose(camera.exp(camera.log(pose)), pose, atol=1e-14)


def test_a_straight_move_is_its_own_twist() -> None:
    pose = camera.exp(np.array([1.0, 2, 3, 0, 0, 0]))
    np.testing.assert_array_equal(pose[:3, 3], [1, 2, 3])
    np.testing.assert_array_equal(pose[:3, :3], np.eye(3))


@given(poses, poses, poses)
def test_poses_form_a_group(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    left = camera.compose(camera.compose(a, b), c)
    np.testing.assert_allclose(left, camera.compose(a, camera.compose(b, c)), atol=1e-10)
    np.testing.assert_allclose(camera.compose(a, camera.inverse(a)), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(camera.inverse(camera.inverse(a)), a, atol=1e-10)
    np.testing.assert_allclose(camera.compose(a, camera.relative(a, b)), b, atol=1e-10)


@given(twists())
def test_the_opposite_twist_is_the_inverse(xi: np.ndarray) -> None:
    np.testing.assert_allclose(camera.exp(-xi), camera.inverse(camera.exp(xi)), atol=1e-10)


def test_batches_agree_with_single_poses() -> None:
    rng = np.random.default_rng(0)
    xi = rng.normal(size=(2, 5, 6))
    pose = camera.exp(xi)
    assert pose.shape == (2, 5, 4, 4)
    np.testing.assert_array_equal(pose[1, 3], camera.exp(xi[1, 3]))
    np.testing.assert_allclose(camera.log(pose), xi, atol=1e-12)
    np.testing.assert_array_equal(camera.inverse(pose)[1, 3], camera.inverse(pose[1, 3]))
    np.testing.assert_array_equal(camera.pluecker(pose, K, 3, 4)[1, 3], camera.pluecker(pose[1, 3], K, 3, 4))
    assert camera.planar(pose).shape == (2, 5, 4)
    assert camera.log(pose[:0]).shape == (0, 5, 6)


@given(coordinates, coordinates, coordinates, st.floats(-PI + 1e-9, PI))
def test_planar_poses_come_back(x: float, y: float, z: float, yaw: float) -> None:
    np.testing.assert_allclose(camera.planar(camera.from_planar(x, y, z, yaw)), [x, y, z, yaw], atol=1e-12)


def test_the_axes_of_a_planar_pose() -> None:
    pose = camera.from_planar(1, 2, 3, PI / 2)  # looks along +y
    right, down, forward = pose[:3, :3].T
    np.testing.assert_allclose(forward, [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(down, [0, 0, -1], atol=1e-15)
    turned_left = camera.from_planar(0, 0, 0, [0, 0.1])
    assert turned_left.shape == (2, 4, 4)
    assert camera.relative(*turned_left)[0, 2] < 0  # forward moves towards the camera's left


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (np.full((4, 4), np.nan), "must be finite"),
        (np.eye(3), "must have shape"),
        (np.zeros(16), "must have shape"),
        (np.eye(4) * 2, "last row"),
        (np.eye(4)[:, ::-1].T, "last row"),
        (np.diag([2.0, 2, 2, 1]), "must be a rotation"),
        (np.diag([1.0, 1, -1, 1]), "must be a rotation"),
        (np.diag([0.0, 0, 0, 1]), "must be a rotation"),
        ([["a"] * 4] * 4, "array of numbers"),
    ],
)
def test_what_is_no_pose_is_refused(pose: np.ndarray, message: str) -> None:
    for function in (camera.check_pose, camera.inverse, camera.log, camera.planar):
        with pytest.raises(CameraError, match=message):
            function(pose)


def test_one_bad_pose_in_a_batch_is_found() -> None:
    batch = np.stack([np.eye(4), np.diag([1.0, 1, -1, 1])])
    with pytest.raises(CameraError, match="must be a rotation") as caught:
        camera.check_pose(batch)
    assert caught.value.value == [[1, 0, 0], [0, 1, 0], [0, 0, -1]]


def test_float32_poses_pass_and_become_float64() -> None:
    pose = camera.exp(np.array([1, 2, 3, 0.3, -1, 2])).astype(np.float32)
    assert camera.check_pose(pose).dtype == np.float64


@pytest.mark.parametrize("xi", [np.zeros(5), np.full(6, np.inf)])
def test_what_is_no_twist_is_refused(xi: np.ndarray) -> None:
    with pytest.raises(CameraError, match="a twist must"):
        camera.exp(xi)


def test_a_field_of_view_spans_the_frame() -> None:
    assert (K.cx, K.cy) == (8, 6)
    assert K.fx == K.fy == pytest.approx(8)
    left_edge = np.linalg.inv(K.matrix()) @ [0, 6, 1]
    np.testing.assert_allclose(left_edge, [-1, 0, 1], atol=1e-12)  # 45 degrees to the left


def test_scaled_intrinsics_see_the_same_rays() -> None:
    whole, half = camera.rays(K, 12, 16), camera.rays(K.scaled(0.5, 0.5), 6, 8)
    np.testing.assert_allclose(whole.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3)), half, atol=1e-12)


def test_rays_lead_back_to_their_pixels() -> None:
    pixels = camera.rays(K, 12, 16) @ K.matrix().T
    np.testing.assert_allclose(pixels[5, 7], [7.5, 5.5, 1], atol=1e-12)
    np.testing.assert_allclose(pixels[..., 2], 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Intrinsics(0, 1, 0, 0), "must be positive"),
        (lambda: Intrinsics(1, math.nan, 0, 0), "must be finite"),
        (lambda: Intrinsics.from_fov(PI, 4, 4), "between 0 and pi"),
    ],
)
def test_intrinsics_that_cannot_be_are_refused(make: object, message: str) -> None:
    with pytest.raises(CameraError, match=message):
        make()  # type: ignore[operator]


def test_intrinsics_can_be_saved() -> None:
    assert config.from_dict(Intrinsics, config.to_dict(K)) == K


@given(poses, st.floats(0.1, 20))
def test_pluecker_lines_are_unit_normal_and_pass_through_their_points(pose: np.ndarray, depth: float) -> None:
    line = camera.pluecker(pose, K, 3, 4)
    direction, moment = line[..., :3], line[..., 3:]
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose((direction * moment).sum(-1), 0, atol=1e-9)
    points = depth * camera.rays(K, 3, 4) @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(np.cross(points, direction), moment, atol=1e-9)


def looking(x: float, y: float, yaw: float) -> np.ndarray:
    return camera.from_planar(x, y, 1.5, yaw)


def test_opengl_poses_become_ours() -> None:
    ours = looking(1, 2, 0.7)
    gl = ours @ np.diag([1.0, -1, -1, 1])  # x right, y up, z backwards
    np.testing.assert_allclose(camera.from_opengl(gl), ours, atol=1e-12)
    np.testing.assert_allclose(camera.from_opengl(np.stack([gl, gl]))[1], ours, atol=1e-12)


def test_an_opengl_world_with_y_up_is_stood_up() -> None:
    """The identity looks along -z with y up: here along +y, level."""
    pose = camera.from_opengl(np.eye(4), up="y")
    np.testing.assert_allclose(pose, camera.from_planar(0, 0, 0, np.pi / 2), atol=1e-12)
    higher = np.eye(4)
    higher[1, 3] = 3
    assert camera.from_opengl(higher, up="y")[2, 3] == pytest.approx(3)


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_quaternions_agree_with_the_exponential(order: str) -> None:
    rng = np.random.default_rng(0)
    omega, place = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    angle = np.linalg.norm(omega, axis=-1, keepdims=True)
    w, v = np.cos(angle / 2), np.sin(angle / 2) * omega / angle
    quaternion = 3 * np.concatenate([w, v] if order == "wxyz" else [v, w], -1)
    pose = camera.from_quaternion(quaternion, place, order=order)
    np.testing.assert_allclose(pose[:, :3, :3], camera.exp(np.concatenate([0 * omega, omega], -1))[:, :3, :3])
    np.testing.assert_array_equal(pose[:, :3, 3], place)
    assert camera.from_quaternion(quaternion, place[0], order=order).shape == (20, 4, 4)


def test_colmap_images_become_ours() -> None:
    """qvec and tvec are of the world-to-camera pose; a world with -y up is turned upright."""
    rng = np.random.default_rng(1)
    quaternion, t = rng.normal(size=4), rng.normal(size=3)
    to_camera = camera.from_quaternion(quaternion, t)
    np.testing.assert_allclose(camera.from_colmap(quaternion, t), camera.inverse(to_camera), atol=1e-12)
    np.testing.assert_allclose(camera.from_colmap(quaternion, t) @ to_camera, np.eye(4), atol=1e-12)
    upright = camera.from_colmap([1, 0, 0, 0], [0, 0, 0], up="-y")  # a camera held upright
    np.testing.assert_allclose(upright, camera.from_planar(0, 0, 0, np.pi / 2), atol=1e-12)


def test_level_keeps_place_and_heading() -> None:
    pose = looking(3, -1, 2.0)
    tilted = pose @ camera.exp(np.array([0, 0, 0, 0.3, 0, 0])) @ camera.exp(np.array([0, 0, 0, 0, 0, -0.5]))
    np.testing.assert_allclose(camera.level(tilted), pose, atol=1e-12)
    np.testing.assert_allclose(camera.level(np.stack([pose, tilted])), [pose, pose], atol=1e-12)
    with pytest.raises(CameraError, match="no heading"):
        camera.level(pose @ camera.exp(np.array([0, 0, 0, np.pi / 2, 0, 0])))


def test_orthonormalise_finds_the_nearest_rotation() -> None:
    pose, rng = looking(3, -1, 2.0), np.random.default_rng(2)
    noisy = pose.copy()
    noisy[:3, :3] += 0.01 * rng.normal(size=(3, 3))
    with pytest.raises(CameraError, match=r"camera.orthonormalise\(\)"):
        camera.check_pose(noisy)
    mended = camera.orthonormalise(noisy)
    np.testing.assert_allclose(mended, pose, atol=0.05)
    camera.check_pose(mended)
    scaled = pose @ np.diag([2.0, 2, 2, 1])
    np.testing.assert_allclose(camera.orthonormalise(scaled), pose, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: camera.from_opengl(np.eye(4), up="x"), "points up"),
        (lambda: camera.from_opengl(np.eye(3)), "shape"),
        (lambda: camera.from_colmap([1, 0, 0, 0], [0, 0, 0], up="x"), "points up"),
        (lambda: camera.from_quaternion([0, 0, 0, 0], [0, 0, 0]), "must not be zero"),
        (lambda: camera.from_quaternion([1, 0, 0], [0, 0, 0]), "quaternion must have shape"),
        (lambda: camera.from_quaternion([1, 0, 0, np.nan], [0, 0, 0]), "finite"),
        (lambda: camera.from_quaternion([1, 0, 0, 0], [0, 0]), "translation must have shape"),
        (lambda: camera.from_quaternion([1, 0, 0, 0], [0, 0, 0], order="abcd"), "order"),
        (lambda: camera.orthonormalise(np.diag([1.0, -1, 1, 1])), "near a rotation"),
        (lambda: camera.orthonormalise(np.zeros((4, 4))), "near a rotation"),
        (lambda: camera.orthonormalise(np.full((4, 4), np.nan)), "finite"),
    ],
)
def test_what_no_helper_takes_is_refused(call: object, message: str) -> None:
    with pytest.raises(CameraError, match=message):
        call()  # type: ignore[operator]
