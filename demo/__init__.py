"""The demo that `reelkeeper demo` and `make demo` play."""
