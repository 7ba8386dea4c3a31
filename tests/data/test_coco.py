import json

import pytest

from tests.helpers.coco import entry, ground_truth_of
from vocseg_lib.data.coco import read_predictions


def test_prediction_files_are_validated_where_they_are_read(tmp_path):
    ground_truth = ground_truth_of(images=1)
    results = [entry(1, 3, (5, 5, 9, 9), score=0.9)] * 2
    image = {"id": 1, "name": "1", "height": 20, "width": 20}
    path = tmp_path / "predictions.json"

    def read(detections=results, **header):
        path.write_text(json.dumps({"header": header, "detections": detections}))
        return read_predictions(path, ground_truth)

    assert read(images=[image]) == {"header": {"images": [image]}, "detections": results}
    assert read() == {"header": {}, "detections": results}
    for header in ({**image, "name": "b"}, {**image, "id": [1]}, {"id": 1}, 1):
        with pytest.raises(ValueError, match=r"predictions\.json"):
            read(images=[header])
    with pytest.raises(ValueError, match=r"predictions\.json.*detections\[1\]"):
        read([results[0], {**results[1], "image_id": 8}])
