"""The inspector's words in one form, whatever version said them."""

from __future__ import annotations

import json

from engineforge.runtime.layers import normalised


def test_names_alone_are_layers() -> None:
    found = normalised(json.dumps({"Layers": ["conv + relu", "fc"], "Bindings": ["x"]}))
    assert found["layers"] == [{"name": "conv + relu"}, {"name": "fc"}]
    assert found["tensorrt"]["Bindings"] == ["x"]


def test_details_are_told_in_one_form() -> None:
    layer = {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
        "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format"}],
        "ParameterType": "Convolution",
        "TacticName": "sm80_xmma",
        "TacticValue": "0x1",
    }
    (found,) = normalised(json.dumps({"Layers": [layer]}))["layers"]
    assert found == {
        "name": "conv",
        "type": "Convolution",
        "input_types": ["float32"],
        "output_types": ["float16"],
        "tactic": "sm80_xmma",
        "tactic_value": "0x1",
    }


def test_what_is_no_json_is_kept_as_text() -> None:
    assert normalised("not { json") == {"layers": [], "tensorrt": "not { json"}
