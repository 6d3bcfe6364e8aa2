"""The names of COCO's classes, in the order of their ids, and how others write them."""

from __future__ import annotations

# 4M's people stop at 80 classes of COCO ("things"); boxes name them by these words.
THINGS: tuple[str, ...] = tuple(
    (
        "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
        "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,"
        "suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
        "tennis racket,bottle,"
        "wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
        "chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,"
        "toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
    ).split(",")
)

# The classes of COCO panoptic segmentation, in their contiguous order: the 80 things, then 53 kinds of stuff.
PANOPTIC: tuple[str, ...] = (
    *THINGS,
    *(
        "banner,blanket,bridge,cardboard,counter,curtain,door-stuff,floor-wood,flower,fruit,gravel,house,light,"
        "mirror-stuff,net,pillow,platform,playingfield,railroad,river,road,roof,sand,sea,shelf,snow,stairs,tent,towel,"
        "wall-brick,wall-stone,wall-tile,wall-wood,water-other,window-blind,window-other,tree-merged,fence-merged,"
        "ceiling-merged,sky-other-merged,cabinet-merged,table-merged,floor-other-merged,pavement-merged,"
        "mountain-merged,grass-merged,dirt-merged,paper-merged,food-other-merged,building-other-merged,rock-merged,"
        "wall-other-merged,rug-merged"
    ).split(","),
)


def plain_class(name: str) -> str:
    """A class's name as it is also written: COCO's without "-merged", "-other", "-stuff" and hyphens; no case."""
    words = name.lower().replace("-", " ").replace("_", " ").split()
    return " ".join(word for word in words if word not in ("merged", "other", "stuff"))
