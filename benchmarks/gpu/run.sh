#!/usr/bin/env bash
# Spend some minutes of one GPU on tests, timings, data and a trained world; see
# docs/how-to/train-on-one-gpu.md.
#
#   benchmarks/gpu/run.sh --budget 540 --train take-cover:latent-dynamics-gpu:1     on a machine with a GPU
#   benchmarks/gpu/run.sh --rehearse                        the same with tiny sizes on a CPU
#
# Results go to $OUT (runs/gpu where it is not set). Wheels in .whl/ are installed first, so that nothing
# needs a network. PYTHON names another interpreter than python3.
cd "$(dirname "$0")/../.." || exit 1
export OUT="${OUT:-runs/gpu}" PYTHONUNBUFFERED=1 SDL_VIDEODRIVER=dummy
WORLDSIM_BEGAN="$(date +%s)"
WORLDSIM_SETUP_LOG="$(mktemp)"
export WORLDSIM_BEGAN WORLDSIM_SETUP_LOG
python="${PYTHON:-python3}"
site="$(mktemp -d)"

install_wheels() {
    compgen -G '.whl/*.whl' >/dev/null || { echo "no wheels in .whl/: make wheels fills it"; return; }
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
        --no-cache-dir --upgrade --target "$site" .whl/*.whl
}

build_kernels() { # a C compiler makes CPUs faster; all else goes on without one
    command -v "${CC:-cc}" >/dev/null || { echo "no C compiler: kernels are left out"; return; }
    timeout 60 "$python" setup.py -q build_ext --inplace || echo "kernels were not built"
}

# Programs in lanes share the card by time slices, unless CUDA's Multi-Process Service runs their kernels at
# once. It changes no setting of the card; where it cannot be started, all goes on without it.
start_mps() {
    command -v nvidia-cuda-mps-control >/dev/null || { echo "no Multi-Process Service here"; return; }
    export CUDA_MPS_PIPE_DIRECTORY="$site/mps" CUDA_MPS_LOG_DIRECTORY="$site/mps"
    mkdir -p "$CUDA_MPS_PIPE_DIRECTORY"
    if timeout 10 nvidia-cuda-mps-control -d && timeout 30 "$python" -c \
        'import torch; print(torch.ones(8, device="cuda").sum().item())'; then
        trap 'echo quit | timeout 10 nvidia-cuda-mps-control >/dev/null' EXIT
        echo "Multi-Process Service: started"
    else
        echo quit | timeout 10 nvidia-cuda-mps-control
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
        echo "Multi-Process Service: could not be started"
    fi
}

# A rehearsal has its packages already, and perhaps another Python than the wheels are for.
case " $* " in
*" --rehearse "*) echo "rehearsal: nothing is installed" >"$WORLDSIM_SETUP_LOG" ;;
*)
    build_kernels >"$WORLDSIM_SETUP_LOG" 2>&1 &
    install_wheels >>"$WORLDSIM_SETUP_LOG.pip" 2>&1
    case " $* " in *" --plan "*) start_mps >>"$WORLDSIM_SETUP_LOG.pip" 2>&1 ;; esac
    wait
    cat "$WORLDSIM_SETUP_LOG.pip" >>"$WORLDSIM_SETUP_LOG"
    ;;
esac
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m benchmarks.gpu "$@"
