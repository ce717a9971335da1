"""The fields of the Core ML messages that an ML Program consists of.

Numbers and types are those of the public `Model.proto`, `FeatureTypes.proto` and `MIL.proto` of coremltools 9.
A field is skipped only if it is text for people; what would change the result and is not implemented is refused.
"""

from __future__ import annotations

from sdmobile.formats.mlprogram.wire import Field, Schema


def _message(name: str, message: str, many: bool = False) -> Field:
    return Field(name, "message", message, many)


def _map(name: str, message: str) -> Field:
    return Field(name, "map", message)


def _skip(name: str) -> Field:
    return Field(name, "skip")


def _refuse(name: str) -> Field:
    return Field(name, "refuse")


_MODEL_TYPES = {
    201: "pipelineRegressor",
    **dict.fromkeys(range(300, 305), "regressor"),
    **dict.fromkeys(range(400, 405), "classifier"),
    500: "neuralNetwork",
    **dict.fromkeys((501, 555, 556, 560, *range(600, 605), 606, 607, 609, 610, 900, 3000), "another kind of model"),
    **dict.fromkeys(range(2000, 2007), "a model of Apple's own"),
}

_MODEL: Schema = {
    "Model": {
        1: Field("specificationVersion", "int"),
        2: _message("description", "ModelDescription"),
        10: _refuse("isUpdatable"),
        200: _message("pipelineClassifier", "PipelineClassifier"),
        202: _message("pipeline", "Pipeline"),
        502: _message("mlProgram", "Program"),
        **{number: _refuse(name) for number, name in _MODEL_TYPES.items()},
    },
    "Pipeline": {1: _message("models", "Model", many=True), 2: Field("names", "string", many=True)},
    "PipelineClassifier": {1: _message("pipeline", "Pipeline")},
    "ModelDescription": {
        1: _message("input", "FeatureDescription", many=True),
        10: _message("output", "FeatureDescription", many=True),
        11: Field("predictedFeatureName", "string"),
        12: Field("predictedProbabilitiesName", "string"),
        13: _message("state", "FeatureDescription", many=True),
        20: _message("functions", "FunctionDescription", many=True),
        21: Field("defaultFunctionName", "string"),
        50: _refuse("trainingInput"),
        100: _skip("metadata"),
    },
    "FunctionDescription": {
        1: Field("name", "string"),
        2: _message("input", "FeatureDescription", many=True),
        3: _message("output", "FeatureDescription", many=True),
        4: Field("predictedFeatureName", "string"),
        5: Field("predictedProbabilitiesName", "string"),
        6: _message("state", "FeatureDescription", many=True),
    },
    "FeatureDescription": {
        1: Field("name", "string"),
        2: _skip("shortDescription"),
        3: _message("type", "FeatureType"),
    },
    "FeatureType": {
        **{n: _message(kind, "Opaque") for n, kind in ((1, "int64Type"), (2, "doubleType"), (3, "stringType"))},
        4: _message("imageType", "ImageFeatureType"),
        5: _message("multiArrayType", "ArrayFeatureType"),
        6: _message("dictionaryType", "Opaque"),
        7: _refuse("sequenceType"),
        8: _message("stateType", "StateFeatureType"),
        1000: Field("isOptional", "bool"),
    },
    "ArrayFeatureType": {
        1: Field("shape", "int", many=True),
        2: Field("dataType", "int"),
        21: _message("enumeratedShapes", "EnumeratedShapes"),
        31: _message("shapeRange", "ShapeRange"),
        41: Field("intDefaultValue", "int"),
        51: Field("floatDefaultValue", "float"),
        61: Field("doubleDefaultValue", "double"),
    },
    "StateFeatureType": {1: _message("arrayType", "ArrayFeatureType")},
    "ImageFeatureType": {
        1: Field("width", "int"),
        2: Field("height", "int"),
        3: Field("colorSpace", "int"),
        21: _message("enumeratedSizes", "ImageSizes"),
        31: _message("imageSizeRange", "ImageSizeRange"),
    },
    "ImageSizes": {1: _message("sizes", "ImageSize", many=True)},
    "ImageSize": {1: Field("width", "int"), 2: Field("height", "int")},
    "ImageSizeRange": {1: _message("widthRange", "SizeRange"), 2: _message("heightRange", "SizeRange")},
    "EnumeratedShapes": {1: _message("shapes", "Shape", many=True)},
    "Shape": {1: Field("shape", "int", many=True)},
    "ShapeRange": {1: _message("sizeRanges", "SizeRange", many=True)},
    "SizeRange": {1: Field("lowerBound", "uint"), 2: Field("upperBound", "int")},
}

_PROGRAM: Schema = {
    "Program": {
        1: Field("version", "int"),
        2: _map("functions", "Function"),
        3: _skip("docString"),
        4: _map("attributes", "Value"),
    },
    "Function": {
        1: _message("inputs", "NamedValueType", many=True),
        2: Field("opset", "string"),
        3: _map("block_specializations", "Block"),
        4: _map("attributes", "Value"),
    },
    "Block": {
        1: _message("inputs", "NamedValueType", many=True),
        2: Field("outputs", "string", many=True),
        3: _message("operations", "Operation", many=True),
        4: _map("attributes", "Value"),
    },
    "Operation": {
        1: Field("type", "string"),
        2: _map("inputs", "Argument"),
        3: _message("outputs", "NamedValueType", many=True),
        4: _message("blocks", "Block", many=True),
        5: _map("attributes", "Value"),
    },
    "Argument": {1: _message("arguments", "Binding", many=True)},
    "Binding": {1: Field("name", "string"), 2: _message("value", "Value")},
    "NamedValueType": {1: Field("name", "string"), 2: _message("type", "ValueType")},
}

_TYPES: Schema = {
    "ValueType": {
        1: _message("tensorType", "TensorType"),
        2: _message("listType", "ListType"),
        3: _message("tupleType", "Opaque"),
        4: _message("dictionaryType", "Opaque"),
        5: _message("stateType", "StateType"),
    },
    "ListType": {1: _message("type", "ValueType"), 2: _message("length", "Dimension")},
    "StateType": {1: _message("wrappedType", "ValueType")},
    "TensorType": {
        1: Field("dataType", "int"),
        2: Field("rank", "int"),
        3: _message("dimensions", "Dimension", many=True),
        4: _refuse("attributes"),
    },
    "Dimension": {1: _message("constant", "ConstantDimension"), 2: _message("unknown", "UnknownDimension")},
    "ConstantDimension": {1: Field("size", "uint")},
    "UnknownDimension": {1: Field("variadic", "bool")},
    # Tuples and dictionaries occur only in descriptive attributes of a program; a reader of one fails in `ir`.
    "Opaque": {number: _skip("contents") for number in (1, 2)},
}

_VALUES: Schema = {
    "Value": {
        1: _skip("docString"),
        2: _message("type", "ValueType"),
        3: _message("immediateValue", "ImmediateValue"),
        5: _message("blobFileValue", "BlobFileValue"),
    },
    "ImmediateValue": {
        1: _message("tensor", "TensorValue"),
        2: _message("tuple", "Opaque"),
        3: _message("list", "ListValue"),
        4: _message("dictionary", "Opaque"),
    },
    "ListValue": {1: _message("values", "Value", many=True)},
    "BlobFileValue": {1: Field("fileName", "string"), 2: Field("offset", "uint")},
    "TensorValue": {
        1: _message("floats", "Floats"),
        2: _message("ints", "Ints"),
        3: _message("bools", "Bools"),
        4: _message("strings", "Strings"),
        5: _message("longInts", "Ints"),
        6: _message("doubles", "Doubles"),
        7: _message("bytes", "Bytes"),
    },
    "Floats": {1: Field("values", "float", many=True)},
    "Ints": {1: Field("values", "int", many=True)},
    "Bools": {1: Field("values", "bool", many=True)},
    "Strings": {1: Field("values", "string", many=True)},
    "Doubles": {1: Field("values", "double", many=True)},
    "Bytes": {1: Field("values", "bytes")},
}

MESSAGES: Schema = {**_MODEL, **_PROGRAM, **_TYPES, **_VALUES}
"""Message type to field number to field."""
