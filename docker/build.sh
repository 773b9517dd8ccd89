#!/usr/bin/env bash
# Builds an image of the server and checks it: its size, and that it serves a model read-only as another user.
#
#   docker/build.sh [cpu|cuda] [MODEL.onnx]
#
# Uses docker, podman or buildah, whichever is at hand and works; BUILDER=podman chooses. Without a model only the
# command's --help is run. buildah builds alone: to run an image it needs docker or podman.
set -euo pipefail

kind=${1:-cpu}
model=${2:-}
most_mb=400
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

works() {
    command -v "$1" >/dev/null && "$1" info >/dev/null 2>&1
}

[[ $kind == cpu || $kind == cuda ]] || fail "there is no image '$kind'. Choose cpu or cuda."
[[ -z $model || -f $model ]] || fail "'$model' is not a file. Give an exported ONNX file."

builder=${BUILDER:-}
if [[ -z $builder ]]; then
    for one in docker podman buildah; do
        if works "$one"; then
            builder=$one
            break
        fi
        if command -v "$one" >/dev/null; then echo "$one is installed, but '$one info' fails: is its service running?" >&2; fi
    done
fi
[[ -n $builder ]] || fail "no builder works here. Install and start one of docker, podman, buildah."
[[ $builder =~ ^(docker|podman|buildah)$ ]] || fail "BUILDER is '$builder'. Choose docker, podman or buildah."
works "$builder" || fail "'$builder info' fails. Install and start it, or choose another of docker, podman, buildah."

tag=onelook:$kind
echo "Building $tag with $builder (minutes) ..."
# A HEALTHCHECK is kept in the format of docker only.
format=(--format docker)
if [[ $builder == docker ]]; then format=(); fi
# The version of a commit with a tag; of others the images have that of sources without a tag.
version=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || true)
"$builder" build "${format[@]}" --file "docker/$kind.Dockerfile" --build-arg "VERSION=${version#v}" --tag "$tag" .

if [[ $builder == buildah ]]; then
    container=$(buildah from "$tag")
    trap 'buildah rm "$container" >/dev/null' EXIT
    folder=$(buildah unshare sh -c "du -sk \"\$(buildah mount $container)\"" | cut -f1)
    bytes=$((folder * 1024))
else
    bytes=$("$builder" image inspect --format '{{.Size}}' "$tag")
fi
size_mb=$((bytes / 1000000))
echo "$tag has $size_mb MB."
if [[ $kind == cpu && $size_mb -ge $most_mb ]]; then fail "$tag has $size_mb MB; it must stay below $most_mb MB."; fi

if [[ $builder == buildah ]]; then
    echo "Not run: buildah builds alone. Run the image with podman or docker."
    exit 0
fi
limits=(--read-only --tmpfs /tmp --cap-drop ALL)
if [[ $kind == cuda ]]; then limits+=(--gpus all); fi
if [[ -z $model ]]; then
    "$builder" run --rm "${limits[@]}" --entrypoint onelook "$tag" serve --help >/dev/null
    echo "'onelook serve --help' works in $tag. Give a model to see it serve: $0 $kind MODEL.onnx"
    exit 0
fi
# The model is copied for the check: the image's user must be able to read it.
models=$(mktemp -d)
mkdir -p "$models/checked/1"
cp "$model" "$models/checked/1/model.onnx"
chmod -R a+rX "$models"
container=$("$builder" run --detach "${limits[@]}" --publish 127.0.0.1::8000 --volume "$models:/models:ro" "$tag")
trap '"$builder" rm --force "$container" >/dev/null; rm -rf "$models"' EXIT
address=$("$builder" port "$container" 8000 | head -n 1)
for _ in $(seq 60); do
    if curl --silent --fail --max-time 2 "http://$address/v2/health/ready" >/dev/null; then
        echo "$tag answers ready at $address."
        "$builder" stop -t 40 "$container" >/dev/null
        code=$("$builder" inspect --format '{{.State.ExitCode}}' "$container")
        [[ $code == 0 ]] || fail "$tag ended with exit code $code after SIGTERM."
        exit 0
    fi
    sleep 1
done
"$builder" logs "$container" >&2 || true
fail "$tag did not answer ready within a minute; its log is above."
