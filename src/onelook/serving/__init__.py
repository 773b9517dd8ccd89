"""The HTTP server: the open inference protocol v2, and detection in images for people. Needs the extra `serve`.

A request passes `gate` (request id, host, token, full queue), then a route (`detect_routes`, `protocol_routes`,
`repository_routes`, `status_routes`), which admits it at a model (`repository`), prepares its input (`sent_images` or
`tensors`) and waits for the model's thread (`batching`). How a model is opened is given from outside (`Opener`).
"""
