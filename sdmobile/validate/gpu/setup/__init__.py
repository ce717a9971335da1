"""Sets up what the GPU check needs: Chromium, the built page, a software Vulkan driver."""
