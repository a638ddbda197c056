#!/bin/bash
# Random Unicode strings against tiktoken, where there is one (PyPI; M2_PYTHON names the interpreter that has it).
exec "${M2_PYTHON:-python3}" "${M2_SOURCE:-.}/tests/golden/fuzz_tiktoken.py"
