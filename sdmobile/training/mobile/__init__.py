"""`shapes-64-mobile`: MobileDiffusion's design, ReLU attention and one-step sampling, trained from `shapes-64`."""
