# Every target makes the virtual environment .venv itself when it is missing or older than pyproject.toml.
# PYTHON=python3.12 make test   chooses the interpreter; otherwise the first one that is new enough is taken.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHON ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-all test-targets test-cluster lint format docs story dist clean

help:
	@echo "make demo      the whole main job on a made-up data set: train, validate, detect, export, report"
	@echo "make test      the tests (minutes)"
	@echo "make test-all  the tests and the slow ones; installs what builds packages and runs notebooks"
	@echo "make test-targets  the tests of OpenVINO, ncnn and LiteRT files and of PyAV, which it installs"
	@echo "make test-cluster  the tests of Ray and of object stores (S3, Google Cloud, Azure), whose emulators it installs"
	@echo "make lint      style and types"
	@echo "make format    puts the code into the house's format"
	@echo "make docs      the pages that programs write, and the site: site/index.html"
	@echo "make story     docs/story.md, with what each of its commands prints (minutes; WEIGHTS=yolox_nano.onnx)"
	@echo "make dist      wheel and sdist in dist/, checked"
	@echo "make install   only makes $(VENV)"
	@echo "make clean     removes $(VENV) and what tools leave behind"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
	  chosen=; \
	  for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then chosen=$$python; break; fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "error: Onelook needs Python 3.10 or newer; none was found." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$chosen" --version) ..."; \
	  rm -rf $(VENV); \
	  if ! "$$chosen" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "error: '$$chosen -m venv' failed. On Debian and Ubuntu install the package python3-venv." >&2; exit 1; \
	  fi; \
	fi; \
	echo "Installing Onelook and its tools into $(VENV) (minutes the first time: PyTorch is large) ..."; \
	$(BIN)/python -m pip install --quiet -e '.[dev]'; \
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/onelook demo --out runs/demo

# One thread a process: the tests run in as many processes as there are cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-all: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[release,notebooks]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow"

# OpenVINO, ncnn, pnnx, LiteRT and PyAV are large, so that `make test` does without them.
test-targets: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[export,int8,litert-export,video]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/test_targets.py tests/test_int8_openvino.py tests/test_stream.py tests/test_openvino_signals.py tests/test_video_pyav.py

# Ray's clusters are of this machine. The tests of Azure are skipped without `azurite-blob` (npm install azurite) on the PATH.
test-cluster: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[scale]' 's3fs' 'gcsfs' 'adlfs' 'moto[server]>=5' 'gcp-storage-emulator'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/test_cluster.py tests/test_ray.py tests/test_ray_killed.py tests/test_ray_cluster.py tests/test_object_stores.py tests/test_shards.py tests/test_elastic.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_roadmap_tables.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_errors.py
	$(BIN)/python docs/make_parity.py
	$(BIN)/python docs/make_site.py

# Runs every command of the story; takes minutes. WEIGHTS: the official ONNX file of YOLOX-Nano.
WEIGHTS ?= yolox_nano.onnx
story: $(INSTALLED)
	$(BIN)/python docs/make_story.py $(WEIGHTS)

# The version is that of the tag (v1.2.3) of the commit that is checked out.
dist: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[release]'
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
