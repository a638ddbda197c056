#!/bin/bash
# Random Unicode strings against Hugging Face's tokenizers, where they are (PyPI; M2_PYTHON names the interpreter that has them).
exec "${M2_PYTHON:-python3}" "${M2_SOURCE:-.}/tests/golden/fuzz_tokenizers.py"
