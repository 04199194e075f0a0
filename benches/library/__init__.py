"""libfastrnn against ONNX Runtime's C interface and code on Eigen. ``__main__.py`` has the command."""
