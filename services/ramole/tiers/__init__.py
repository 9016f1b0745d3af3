"""Where adapter files and weights wait between the store and the device: local disk and host memory, by digest."""
