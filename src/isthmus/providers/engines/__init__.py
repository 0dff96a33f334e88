"""Engines that run open weights on this machine, each as a supervised process of its own."""
