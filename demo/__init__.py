"""The demo of `reelkeeper demo` and `make demo`."""
