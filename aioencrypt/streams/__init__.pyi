from .files import MessageSink as MessageSink
from .pushed import PlaintextSink as PlaintextSink
from .ranges import RangeSource as RangeSource, SeekableSource as SeekableSource
from .sources import Source as Source

__all__ = ["MessageSink", "PlaintextSink", "RangeSource", "SeekableSource", "Source"]
