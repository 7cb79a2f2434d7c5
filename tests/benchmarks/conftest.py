from tests.small_net import registered_net, small_net

__all__ = ["registered_net", "small_net"]
