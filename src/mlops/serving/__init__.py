"""The HTTP service. A request passes `middleware`, `app`, `uploads` and `batcher`, in this order."""
