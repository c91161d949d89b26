"""Values to stored JSON and back, exactly or not at all.

Plain JSON stays plain JSON. A value that JSON has no type for becomes an object ``{"$type": name, "value": ...}``;
models, dataclasses and named tuples are stored by the type they are declared with. A value that would not come back
equal is refused on the way in, so that a replay can never see something else than the first run did.
"""

from workflow_core.serialization.classes import class_path, find_class
from workflow_core.serialization.codec import Codec, same_json
from workflow_core.serialization.encoding import MAX_DEPTH
from workflow_core.serialization.return_types import ReturnType, return_type_of
from workflow_core.serialization.tags import Serializer

__all__ = ["MAX_DEPTH", "ReturnType", "Serializer", "Codec", "class_path", "find_class", "return_type_of", "same_json"]
