"""The exchanges: one adapter each (``base`` says what that is), one entry each in ``registry``."""

from streammachine.market.exchanges.lookup import adapter_for as adapter_for
from streammachine.market.exchanges.registry import EXCHANGES as EXCHANGES
