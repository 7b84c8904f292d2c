from dataclasses import dataclass
from typing import ClassVar
import numpy as np, torch
from ntt.segmenters.base import SegmenterConfig
from ntt.types import Proposals
class R:
    name="regions"; fingerprint={"name":"tmp"}
    def canvas_hw(self,h,w): s=min(1,320/max(h,w)); return max(1,round(h*s)),max(1,round(w*s))
    def propose(self, canvas, fm):
        from skimage.segmentation import felzenszwalb
        im=canvas.permute(1,2,0).numpy(); ms=[]
        for sc in (50,200,500,1000):
            l=felzenszwalb(im,scale=sc,sigma=.8,min_size=60)
            ms+= [l==i for i in range(l.max()+1)]
        m=np.stack(ms[:400]); 
        return Proposals(torch.from_numpy(np.where(m,1,-1).astype(np.int8)), torch.linspace(.9,.1,len(m)))
@dataclass
class RC(SegmenterConfig):
    SCHEMA: ClassVar[str]="regions"
    def build(self,p): return R()
