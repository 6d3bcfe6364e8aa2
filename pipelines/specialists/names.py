"""The names of fourmill's own specialists: one row a specialist, and nothing else says them.

Recipes, `plan` and the ledger use the short name. Fingerprints keep the name of the first release for ever, so that
files and classes can move without a label being made again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registered:
    """Where a specialist of ours is, "folder.module:Class" below this folder, and the name that it had in the first
    release: recipes of that time use it, and fingerprints hold it. One that begins with "fourmill." is elsewhere: it
    stands on more than pipelines/ does, and is imported when a recipe names it."""

    path: str
    first: str

    @property
    def place(self) -> tuple[str, str]:
        """Its module and the name of its class."""
        path = self.path if self.path.startswith("fourmill.") else f"{__package__}.{self.path}"
        module, _, name = path.partition(":")
        return module, name

    @property
    def fingerprint_name(self) -> str:
        """What fingerprints call it."""
        return f"pipelines.specialists.{self.first}"


SPECIALISTS: dict[str, Registered] = {
    "canny": Registered("classical.canny:Canny", "canny:Canny"),
    "member": Registered("members.member:Member", "member:Member"),
    "sensor": Registered("members.sensor:FromSensor", "members.sensor:FromSensor"),
    "captions": Registered("text.captions:Captions", "captions:Captions"),
    "vlm_captions": Registered("text.vlm:VlmCaptions", "text.vlm:VlmCaptions"),
    "t5": Registered("text.t5:T5Embeddings", "t5:T5Embeddings"),
    "detector": Registered("detection.transformers:Boxes", "detection:Boxes"),
    "yolo": Registered("detection.yolo:YoloBoxes", "detection_yolo:YoloBoxes"),
    "open_detector": Registered("detection.open_vocabulary:OpenBoxes", "detection.open_vocabulary:OpenBoxes"),
    "hog_people": Registered("detection.people:HogPeople", "people:HogPeople"),
    "depth": Registered("dense.depth:Depth", "depth:Depth"),
    "metric_depth": Registered("dense.metric_depth:MetricDepth", "dense.metric_depth:MetricDepth"),
    "normals": Registered("dense.normals:Normals", "normals:Normals"),
    "marigold": Registered("dense.normals_marigold:MarigoldNormals", "normals_marigold:MarigoldNormals"),
    "normals_from_depth": Registered("dense.normals_geometry:NormalsFromDepth", "normals_geometry:NormalsFromDepth"),
    "panoptic": Registered("dense.segmentation:Panoptic", "segmentation:Panoptic"),
    "clip": Registered("features.features:Clip", "features:Clip"),
    "dinov2": Registered("features.features:Dino", "features:Dino"),
    "dinov2_global": Registered("features.features:DinoGlobal", "features:DinoGlobal"),
    "imagebind": Registered("features.imagebind:ImageBind", "imagebind:ImageBind"),
    "imagebind_global": Registered("features.imagebind:ImageBindGlobal", "imagebind:ImageBindGlobal"),
    "sam": Registered("instances.sam:SamInstances", "sam:SamInstances"),
    "sam_edges": Registered("instances.sam_edges:SamEdges", "sam_edges:SamEdges"),
    "hmr2": Registered("poses.human_poses:Hmr2", "human_poses:Hmr2"),
    "palette": Registered("classical.palette:Palette", "palette:Palette"),
    "window": Registered("classical.window:ImageWindow", "classical.window:ImageWindow"),
    "metadata": Registered("classical.metadata:Metadata", "metadata:Metadata"),
    "size": Registered("curation.size:ImageSize", "curation.size:ImageSize"),
    "borders": Registered("curation.size:Borders", "curation.size:Borders"),
    "score": Registered("curation.score:Score", "curation.score:Score"),
    "signature": Registered("curation.duplicates:Signature", "curation.duplicates:Signature"),
    "duplicates": Registered("curation.duplicates:Duplicates", "curation.duplicates:Duplicates"),
    "aesthetic_head": Registered("curation.aesthetic:AestheticHead", "curation.aesthetic:AestheticHead"),
    "clip_similarity": Registered("curation.similarity:ClipSimilarity", "curation.similarity:ClipSimilarity"),
    "clip_global": Registered("features.clip_global:ClipGlobal", "features.clip_global:ClipGlobal"),
    "fourmill": Registered("fourmill.runs.labeller:Trained", "fourmill:Trained"),
}
BY_FIRST_NAME = {registered.first: name for name, registered in SPECIALISTS.items()}  # recipes of the first release
