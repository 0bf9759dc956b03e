"""The faults of faults.py: how each is made, and what the command line must say of it."""

import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from fault_trial import DETECTOR, FINE, MASKS, SEGMENTOR, Trial, fault
from PIL import Image

# images and boxes

for _name, _content, _says in (
    ('an image that is no image', b'hello', r'error: [^\n]*is damaged[^\n]*'),
    ('an empty image file', b'', r'error: empty files in place of images[^\n]*'),
):

    @fault(_name, _says)
    def _image(trial: Trial, content: bytes = _content) -> list[str | Path]:
        trial.images[4].write_bytes(content)
        return trial.train()


@fault('the first bytes of an image', r'error: [^\n]*is damaged[^\n]*')
def _cut(trial: Trial) -> list[str | Path]:
    whole = trial.images[4].read_bytes()
    trial.images[4].write_bytes(whole[:30])
    return trial.train()


@fault('half an image', r'error: [^\n]*is damaged[^\n]*')
def _half_image(trial: Trial) -> list[str | Path]:
    whole = trial.images[4].read_bytes()
    trial.images[4].write_bytes(whole[: len(whole) // 2])
    return trial.train()


@fault('an image that is not there', r'error: the data set is not complete.*?PROBLEM[^\n]*')
def _absent(trial: Trial) -> list[str | Path]:
    trial.images[4].unlink()
    return trial.train()


@fault('a data set that disappears during the training', r'error: [^\n]*is not there[^\n]*')
def _vanish(trial: Trial) -> list[str | Path]:
    trial.after_a_checkpoint(lambda _: trial.data.rename(trial.data.with_name('elsewhere')))
    return trial.train_long()


def _grey(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image[..., 0]).save(path, 'JPEG')


def _rgba(image: np.ndarray, path: Path) -> None:
    alpha = np.full_like(image[..., :1], 128)
    Image.fromarray(np.concatenate([image, alpha], 2)).save(path, 'PNG')


def _sixteen_bits(image: np.ndarray, path: Path) -> None:
    path.write_bytes(cv2.imencode('.png', image.astype(np.uint16) * 257)[1].tobytes())


def _cmyk(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).convert('CMYK').save(path, 'JPEG')


def _pixel(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image[:1, :1]).save(path, 'JPEG')


for _kind, _save in (
    ('a grey image', _grey),
    ('an image with an alpha channel', _rgba),
    ('an image of 16 bits', _sixteen_bits),
    ('a CMYK image', _cmyk),
    ('an image of one pixel', _pixel),
):

    @fault(f'{_kind}, in training', FINE, 0)
    def _train_on(trial: Trial, save: Callable = _save) -> list[str | Path]:
        save(np.asarray(Image.open(trial.images[4])), trial.images[4])
        return trial.train()


@fault('an image that its EXIF data turn', r'warning: [^\n]*EXIF[^\n]*', 0)
def _exif(trial: Trial) -> list[str | Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(trial.images[4]).save(trial.images[4], exif=exif)
    return trial.train()


@fault('a box outside its image', r'warning: [^\n]*lie outside their image[^\n]*', 0)
def _outside(trial: Trial) -> list[str | Path]:
    trial.change(lambda content: content['annotations'][3].update(bbox=[900, 900, 5, 5]))
    return trial.train()


@fault('a box without area', r'warning: [^\n]*have no area[^\n]*', 0)
def _flat(trial: Trial) -> list[str | Path]:
    trial.change(lambda content: content['annotations'][3].update(bbox=[5, 5, 0, 5]))
    return trial.train()


for _kind, _said, _status, _change in (
    ('a box of no image', r'warning: [^\n]*of an image that[^\n]*', 0, dict(image_id=999)),
    ('two annotations of one id', r'error: [^\n]*several annotations[^\n]*', 1, dict(id=1)),
):

    @fault(_kind, _said, _status)
    def _box(trial: Trial, change: dict[str, Any] = _change) -> list[str | Path]:
        trial.change(lambda content: content['annotations'][3].update(change))
        return trial.train()


@fault('annotations without categories', r'error: [^\n]*has no categories[^\n]*')
def _no_categories(trial: Trial) -> list[str | Path]:
    trial.change(lambda content: content.pop('categories'))
    return trial.train()


@fault('images without annotations', FINE, 0)
def _some_empty(trial: Trial) -> list[str | Path]:
    trial.change(
        lambda content: content.update(
            annotations=[thing for thing in content['annotations'] if thing['image_id'] > 2]
        )
    )
    return trial.train('train_dataloader.dataset.filter_cfg.filter_empty_gt=False')


@fault('a training set without any annotation', r'error: [^\n]*has no annotation[^\n]*')
def _all_empty(trial: Trial) -> list[str | Path]:
    trial.change(lambda content: content.update(annotations=[]))
    return trial.train()


@fault('annotations that are cut short', r'PROBLEM: cut short[^\n]*')
def _half(trial: Trial) -> list[str | Path]:
    file = trial.data / 'annotations/instances_train2017.json'
    file.write_text(file.read_text()[:-2000])
    return trial.train()


@fault('a mask that cannot be drawn', r'error: [^\n]*in a polygon[^\n]*')
def _mask(trial: Trial) -> list[str | Path]:
    broken = [[1, 2, float('nan'), 4, 5, 6]]
    trial.change(lambda content: content['annotations'][3].update(segmentation=broken))
    return trial.train(config=MASKS)


@fault('no data set', r'error: the data set is not complete.*?PROBLEM[^\n]*')
def _no_data(trial: Trial) -> list[str | Path]:
    return ['train', 'retinanet_rest_small_coco', '--from-scratch']


def _label_maps(trial: Trial) -> list[Path]:
    return sorted((trial.data / 'annotations/training').glob('*.png'))


@fault('a label map of another size than its image', r'error: [^\n]*another size[^\n]*')
def _map_size(trial: Trial) -> list[str | Path]:
    for file in _label_maps(trial):
        Image.open(file).resize((31, 20), Image.Resampling.NEAREST).save(file)
    return trial.train(config=SEGMENTOR)


@fault('label maps in colour', r'error: [^\n]*in colour[^\n]*')
def _map_colour(trial: Trial) -> list[str | Path]:
    for file in _label_maps(trial):
        Image.open(file).convert('RGB').save(file)
    return trial.train(config=SEGMENTOR)


@fault('label maps of another size in validation', r'error: [^\n]*another size[^\n]*')
def _validated_map_size(trial: Trial) -> list[str | Path]:
    for file in sorted((trial.data / 'annotations/validation').glob('*.png')):
        Image.open(file).resize((31, 20), Image.Resampling.NEAREST).save(file)
    return trial.train(config=SEGMENTOR)


@fault('labels of no class', r'error: [^\n]*label of no class[^\n]*')
def _map_labels(trial: Trial) -> list[str | Path]:
    for file in _label_maps(trial):
        Image.fromarray(np.full_like(Image.open(file), 77)).save(file)
    return trial.train(config=SEGMENTOR)


@fault('a label map that is not there', r'error: the data set is not complete.*?PROBLEM[^\n]*')
def _map_absent(trial: Trial) -> list[str | Path]:
    _label_maps(trial)[3].unlink()
    return trial.train(config=SEGMENTOR)


@fault('label maps of another suffix', r"PROBLEM[^\n]*where seg_map_suffix='_own\.png'[^\n]*")
def _suffix_of_maps(trial: Trial) -> list[str | Path]:
    for file in (trial.data / 'annotations/training').iterdir():
        file.rename(file.with_name(f'{file.stem}_own.png'))
    return trial.train(config=SEGMENTOR)


@fault('a label map that is cut short', r'error: the label map [^\n]*cut short[^\n]*')
def _map_cut(trial: Trial) -> list[str | Path]:
    for file in _label_maps(trial):
        file.write_bytes(file.read_bytes()[:60])
    return trial.train(config=SEGMENTOR)


# classes

_NAMES = ('disc', 'ring', 'triangle', 'bar', 'star')


def _classes(trial: Trial, names: object) -> list[str | Path]:
    return trial.train(f'train_dataloader.dataset.metainfo.classes={names!r}'.replace(' ', ''))


for _kind, _given, _says, _status in (
    ('a misspelt class', ('disc', 'rnig', *_NAMES[2:]), r'error: .*?did you mean \S+', 1),
    ('classes in another order', _NAMES[::-1], r'error: .*?write the same order[^\n]*', 1),
    ('a class that the annotations lack', (*_NAMES[:4], 'car'), r'warning: .*?\n[^\n]*\n[^\n]*', 0),
    ('a class left out', _NAMES[:4], r'error: [^\n]*has 4 classes[^\n]*', 1),
    ('a string for the classes', 'disc', r'error: [^\n]*whose letters[^\n]*', 1),
):

    @fault(_kind, _says, _status)
    def _other_classes(trial: Trial, given: object = _given) -> list[str | Path]:
        return _classes(trial, given)


for _config, _head in (
    (DETECTOR, 'bbox_head'),
    (MASKS, 'roi_head.bbox_head'),
    (MASKS, 'roi_head.mask_head'),
    (SEGMENTOR, 'decode_head'),
    (SEGMENTOR, 'auxiliary_head'),
):

    @fault(f'another number of classes: {_config}, {_head}', r'error: [^\n]*classes[^\n]*')
    def _num_classes(trial: Trial, config: str = _config, head: str = _head) -> list[str | Path]:
        return trial.train(f'model.{head}.num_classes=3', config=config)


@fault('an evaluator of other data', r'error: [^\n]*has no category[^\n]*')
def _other_evaluator(trial: Trial) -> list[str | Path]:
    other = trial.data / 'annotations/other.json'
    content = json.loads(other.with_name('instances_val2017.json').read_text())
    for kind in content['categories']:
        kind['name'] += 's'
    other.write_text(json.dumps(content))
    return trial.train(f'val_evaluator.ann_file={other}', 'train_cfg.val_interval=1')


@fault('save_best by another metric', r'error: save_best[^\n]*')
def _best(trial: Trial) -> list[str | Path]:
    return trial.train('default_hooks.checkpoint.save_best=bbox_mAP', 'train_cfg.val_interval=1')


# losses


@fault('a loss that is no number', r'error: the loss is [^\n]*')
def _no_number(trial: Trial) -> list[str | Path]:
    return trial.train('optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]')


@fault('the same, with --skip-non-finite', r'the loss is [^\n]*left out[^\n]*', 0)
def _skipped(trial: Trial) -> list[str | Path]:
    options = ('optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]')
    return trial.train(*options, more=('--skip-non-finite',))


# places


@fault('a work directory that cannot be made', r'error: the work directory[^\n]*')
def _no_work_dir(trial: Trial) -> list[str | Path]:
    trial.work.write_text('')
    return trial.train()


@fault('a work directory on a read-only file system', r'error: the work directory[^\n]*')
def _read_only(trial: Trial) -> list[str | Path]:
    _mount(trial.work, 'ro')
    return trial.train()


@fault('a full disk', r'error: the disk [^\n]*')
def _full_disk(trial: Trial) -> list[str | Path]:
    _mount(trial.work, 'size=20m')
    return trial.train()


def _mount(folder: Path, options: str) -> None:
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder], check=True)


@fault('a second training in the work directory', r'error: another training[^\n]*')
def _second(trial: Trial) -> list[str | Path]:
    first = trial.start(trial.train_long())
    while first.poll() is None and not list(trial.work.glob('*.pth')):
        time.sleep(0.05)
    return trial.train()


# ends

for _signal, _status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):

    @fault(f'{_signal.name} during a training', r'[^\n]*saved [^\n]*interrupted.pth[^\n]*', _status)
    def _ended(trial: Trial, number: signal.Signals = _signal) -> list[str | Path]:
        trial.after_a_checkpoint(lambda process: process.send_signal(number))
        return trial.train_long()


@fault('kill -9, and --resume', r'resumed epoch: [^\n]*', 0)
def _killed(trial: Trial) -> list[str | Path]:
    process = trial.start(trial.train_long())
    while process.poll() is None and not list(trial.work.glob('iter_[2-9].pth')):
        time.sleep(0.05)
    process.kill()
    process.wait()
    return trial.train('train_cfg.max_epochs=20', more=('--resume',))


def _trained(trial: Trial, config: str = DETECTOR) -> Path:
    trial.start(trial.train('default_hooks.checkpoint.interval=1', config=config)).wait()
    return next(trial.work.glob('*_[123].pth'))


for _name, _keep, _says, _status in (
    ('the newest checkpoint cut short, and --resume', True, r'warning: [^\n]*cut short[^\n]*', 0),
    ('the only checkpoint cut short, and --resume', False, r'error: [^\n]*cut short[^\n]*', 1),
):

    @fault(_name, _says, _status)
    def _broken(trial: Trial, keep: bool = _keep) -> list[str | Path]:
        path = _trained(trial)
        whole = path.read_bytes()
        newest = path.with_name('epoch_2.pth') if keep else path
        newest.write_bytes(whole[: len(whole) // 2])
        (trial.work / 'last_checkpoint').write_text(str(newest))
        return trial.train('train_cfg.max_epochs=2', more=('--resume',))


# checkpoints


class _Code:
    def __reduce__(self) -> tuple:
        return (print, ('code was run',))


def _checkpoint(kind: str, path: Path) -> None:
    if kind == 'with code in it':
        path.write_bytes(pickle.dumps({'state_dict': _Code()}))
    elif kind == 'that is text':
        path.write_text('hello')
    elif kind == 'of another model':
        torch.save({'state_dict': {'conv1.weight': torch.zeros(64, 3, 7, 7)}}, path)


for _kind in ('with code in it', 'that is text', 'of another model', 'that is not there'):

    @fault(f'a checkpoint {_kind}', r'error: [^\n]*')
    def _load(trial: Trial, kind: str = _kind) -> list[str | Path]:
        path = trial.data.with_name('given.pth')
        _checkpoint(kind, path)
        places = ['--data-root', trial.data, '--work-dir', trial.work]
        return ['test', DETECTOR, path, *places, '--cfg-options', 'built_in_data=None']


@fault('no detection at all', r'the model detects nothing[^\n]*', 0)
def _nothing(trial: Trial) -> list[str | Path]:
    options = ['--cfg-options', 'built_in_data=None', 'model.test_cfg.score_thr=0.9999']
    places = ['--data-root', trial.data, '--work-dir', trial.work / 'test']
    return ['test', DETECTOR, _trained(trial), *places, *options]


@fault('images of every kind, predicted', r'[^\n]*one.jpg[^\n]*', 0)
def _predicted(trial: Trial) -> list[str | Path]:
    image = np.asarray(Image.open(trial.images[4]))
    saves = dict(grey=_grey, rgba=_rgba, bits=_sixteen_bits, cmyk=_cmyk, one=_pixel)
    paths = [trial.data.with_name(f'{name}.jpg') for name in saves]
    for save, path in zip(saves.values(), paths, strict=True):
        save(image, path)
    return ['predict', DETECTOR, _trained(trial), *paths, '--out-dir', trial.work / 'drawn']


@fault('a damaged image, predicted', r'error: [^\n]*')
def _predict_damaged(trial: Trial) -> list[str | Path]:
    checkpoint = _trained(trial)
    trial.images[4].write_bytes(b'hello')
    return ['predict', DETECTOR, checkpoint, trial.images[4], '--out-dir', trial.work / 'drawn']


@fault('predictions into the folder of the images', r'error: [^\n]*')
def _predict_over(trial: Trial) -> list[str | Path]:
    image = trial.images[4]
    return ['predict', DETECTOR, _trained(trial), image, '--out-dir', image.parent]


# processes


@fault('one of two processes is killed', r'error: process [^\n]*')
def _one_of_two(trial: Trial) -> list[str | Path]:
    def kill_last_child(process: subprocess.Popen) -> None:
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    trial.after_a_checkpoint(kill_last_child)
    launch = ['torchrun', '--standalone', '--nproc_per_node', '2', '-m', 'mmrest']
    return [*launch, *trial.train_long('--launcher', 'pytorch')]


for _launcher in ('pytorch', 'slurm', 'mpi'):

    @fault(f'--launcher {_launcher} without it', r'error: [^\n]*')
    def _launched(trial: Trial, launcher: str = _launcher) -> list[str | Path]:
        return trial.train(more=('--launcher', launcher))


# configs


@fault('no such config', r'error: [^\n]*')
def _no_config(trial: Trial) -> list[str | Path]:
    return ['train', 'configs/retinanet_rset_small_coco.py']


@fault('a misspelt type', r'error: [^\n]*')
def _type(trial: Trial) -> list[str | Path]:
    return trial.train('model.backbone.type=RseT')


@fault('a misspelt argument', r'error: [^\n]*')
def _argument(trial: Trial) -> list[str | Path]:
    return trial.train('model.backbone.drop_path=0.1')


@fault('an option of a misspelt section', r'error: [^\n]*')
def _section(trial: Trial) -> list[str | Path]:
    return trial.train('train_cgf.max_epochs=1')


@fault('an option that has lost its section', r'error: [^\n]*did you mean train_cfg[^\n]*')
def _lost_section(trial: Trial) -> list[str | Path]:
    return trial.train('max_epochs=3')


@fault('anchors at other strides', r'the anchors of [^\n]*boxes lie in the wrong places[^\n]*', 0)
def _strides(trial: Trial) -> list[str | Path]:
    return trial.train('model.neck.start_level=1')


@fault('a preprocessor of other channels', r'error: model.backbone takes images of 4 [^\n]*')
def _channels(trial: Trial) -> list[str | Path]:
    return trial.train('model.backbone.in_channels=4')


@fault('--cfg-options with a function', r'error: [^\n]*is no class[^\n]*')
def _function_option(trial: Trial) -> list[str | Path]:
    return trial.train('model.backbone.type=os.system')


@fault('--cfg-options with code', r'error: [^\n]*')
def _code_option(trial: Trial) -> list[str | Path]:
    return trial.train("model.backbone.arch=__import__('os').system('touch ran')")


@fault('--cfg-options with a class that runs configs', r'error: [^\n]*one that runs configs[^\n]*')
def _inferencer_option(trial: Trial) -> list[str | Path]:
    return trial.train('model.backbone.type=mmdet.apis.DetInferencer')


@fault('--cfg-options with a file that is unpickled', r'error: [^\n]*can run code[^\n]*')
def _pickle_option(trial: Trial) -> list[str | Path]:
    return trial.train('train_dataloader.dataset.proposal_file=proposals.pkl')
