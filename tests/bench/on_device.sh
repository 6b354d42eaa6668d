#!/usr/bin/env bash
# Run and time recipe hidream on a machine with one CUDA GPU, Python and PyTorch, and no network.
#
#   bash tests/bench/on_device.sh --pack DIR [PYTHON]   here: all that machine needs, at most 64 MB, for its Python (3.12)
#   bash DIR/on_device.sh [--rehearse]                  there: under nine minutes, nothing is installed; on_device.py --help
#
# Packing takes kit, git, pip with a package index, and a reference environment of hidream (`kit env`).
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

die() {
  printf 'on_device.sh: error: %s\n' "$1" >&2
  exit 2
}

[[ ${1:-} == --pack ]] || exec python3 "$here/on_device.py" "$@"

dir=${2:-} version=${3:-3.12} repository=$(dirname -- "$(dirname -- "$here")")
[[ -n $dir ]] || die 'give the folder to make: --pack DIR'
dir=$(realpath -m -- "$dir")
[[ ! -e $dir ]] || die "$dir is there already: give a new folder"
kit=$(command -v kit || echo "$repository/.venv/bin/kit")
recipe=$repository/recipes/hidream.toml

"$kit" prepare "$recipe" --device cuda "$dir/patched"
"$kit" prepare "$recipe" --device cuda --without transformer-patches "$dir/upstream"
mkdir "$dir/wheels" # both run on the same diffusers, which travels as a wheel does
(cd "$dir/patched/diffusers/src" && python3 -m zipfile -c "$dir/wheels/diffusers-0-py3-none-any.whl" diffusers)
rm -rf "$dir"/*/diffusers/{.git,src}
"$kit" tiny hidream "$dir/tiny"
cp -r "$here"/on_device.{sh,py} "$here"/{bench_transformer,rows_hidream}.py "$here/standins" "$dir"
find "$dir" -name __pycache__ -prune -exec rm -r {} +

# pinned: as in the recipe's reference environment; others: only unpacked where that machine has none.
pinned=(accelerate huggingface-hub peft safetensors tokenizers transformers)
others=(absl-py certifi charset-normalizer filelock fsspec ftfy idna importlib-metadata jinja2 markdown markupsafe numpy
  packaging pillow protobuf psutil pyyaml regex requests sentencepiece six tensorboard tqdm typing-extensions urllib3
  wcwidth werkzeug zipp)
for name in "${pinned[@]}"; do
  grep -oE "^$name==[^ ]+" "$repository/recipes/hidream/requirements.txt" || die "no $name in recipes/hidream/requirements.txt"
done >"$dir/requirements.txt"
printf '%s\n' diffusers "${pinned[@]}" >"$dir/pinned.txt"
platforms=(--platform any)
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
python3 -m pip --quiet --quiet download --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
  "${platforms[@]}" --dest "$dir/wheels" --requirement "$dir/requirements.txt" "${others[@]}"

size=$(du -sm -- "$dir" | cut -f1)
((size <= 64)) || die "$dir has $size MB, more than 64"
echo "$dir: $size MB, for Python $version; next, on a machine with a GPU: bash ${dir##*/}/on_device.sh"
