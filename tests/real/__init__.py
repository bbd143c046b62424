"""Models of packages that install from PyPI, as abstract shapes; `make test-real`, with packages of its own."""
