import pytest

from monai_blurvae.data.header import VOLUME_SUFFIXES
from monai_blurvae.data.people import label_maps, persons
from monai_blurvae.errors import DataError

ADNI = "002_S_0413/MPR__GradWarp__B1_Correction__N3__Scaled"


def of(paths, pattern="**/*"):
    return persons(paths, pattern, VOLUME_SUFFIXES)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([f"{ADNI}/2006-05-02_12_31_52.0/S13893/a.nii", f"{ADNI}/2006-11-02_08_16_44.0/S2/b.nii"], ["002_S_0413"] * 2),
        (["ADNI_002_S_0413_MR_MPR_Br_2007.nii", "ADNI_022_S_10413_MR.nii"], ["002_S_0413", "022_S_10413"]),
        (
            ["OAS1_0001_MR1/RAW/x.img", "OAS1_0001_MR2/RAW/x.img", "OAS1_0002_MR1/x.img"],
            ["OAS1_0001"] * 2 + ["OAS1_0002"],
        ),
        (
            [
                f"PPMI/3102/Sag_MPRAGE_GRAPPA/201{i}-02-0{i}_08_15_03.0/I12{i}/PPMI_3102_MR_br_raw_{i}.nii"
                for i in (1, 2)
            ],
            ["3102"] * 2,
        ),
        (["OAS30001_MR_d0129/T1.nii.gz", "OAS30001_MR_d0757/T1.nii.gz"], ["OAS30001"] * 2),
        (["sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/sub-01_ses-2_run-2_T1w.nii"], ["sub-01"] * 2),
        (["HCP_1200/100307/T1w/x.nii.gz", "HCP_Retest/100307/T1w/x.nii.gz"], ["100307"] * 2),
        (["100307_3T_T1w_MPR1.nii.gz", "100307_3T_T1w_MPR2.nii.gz"], ["100307"] * 2),
        (
            ["1000123_20252_2_0/T1.nii", "1000123_20252_3_0/T1.nii", "1000123_20253_2_0.nii", "1000124_20252_2_0.nii"],
            ["1000123"] * 3 + ["1000124"],
        ),
        (["HCA6002236_V1_MR/T1.nii", "HCA6002236_V2_MR/T1.nii"], ["HCA6002236"] * 2),
        (["sub01_1.nii", "sub01_2.nii", "sub02_1.nii"], ["sub01", "sub01", "sub02"]),
        (["patient_003/2006/T1.nii", "patient_003/2007/T1.nii"], ["patient_003"] * 2),
        (["baseline/s0011.nii", "followup/s0011.nii"], ["s0011"] * 2),
    ],
)
def test_conventions(paths, expected):
    assert of(paths) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["AB12_1.nii", "AB12_2.nii", "CD13_1.nii"], ["AB12", "AB12", "CD13_1"]),
        (["x_run-1.nii", "x_run-2.nii", "y_run-1.nii"], ["x", "x", "y_run-1"]),
        (["AB_2006-05-02.nii", "AB_2007-05-02.nii", "CD_20060502.nii"], ["AB", "AB", "CD_20060502"]),
        (["IXI002-Guys-0828-T1.nii", "IXI002-Guys-0828-T2.nii"], ["IXI002-Guys-0828"] * 2),
        (
            ["A00028185_ses-BAS1.nii", "A00028185_ses-FLU1.nii", "A00031166_ses-BAS1.nii"],
            ["A00028185"] * 2 + ["A00031166_ses-BAS1"],
        ),
        (
            ["miriad_188_AD_M_01_MR_1.nii", "miriad_188_AD_M_02_MR_1.nii", "miriad_189_AD_F_01_MR_1.nii"],
            ["miriad_188_AD"] * 2 + ["miriad_189_AD_F_01_MR_1"],
        ),
        (["all/x/2006/a17.nii", "all/x/2007/b18.nii", "all/y/2006/c19.nii"], ["x", "x", "y"]),
        (["AB/anat/v1/a.nii", "AB/anat/v2/b.nii", "CD/anat/v1/c.nii"], ["AB", "AB", "CD"]),
        (["baseline/AB12.nii", "followup/AB13.nii"], ["AB12", "AB13"]),
        (["smith/2006/brain.nii", "smith/2007/brain.nii", "jones/2006/brain.nii"], ["smith", "smith", "jones"]),
        (["A17/alpha.nii", "A17/beta.nii", "B18/gamma.nii"], ["A17", "A17", "B18"]),
        (["bert/mri/norm.mgz", "bert/mri/orig.mgz", "fred/mri/orig.mgz"], ["bert", "bert", "fred"]),
        (["x/2006-01-01.nii", "x/2007-01-01.nii", "y/2008-01-01.nii"], ["x", "x", "y"]),
    ],
)
def test_visits_and_instances_of_names_without_a_convention(paths, expected):
    assert of(paths) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002"],
        ["LUNG1-001", "LUNG1-002", "LUNG1-003"],
        ["site1_001", "site1_050", "site2_002"],
        ["brain_1", "brain_2", "brain_3"],
        ["T1_1", "T1_2"],
        ["m01", "m02", "m03"],
        ["20060502", "20060503"],
        ["0", "1", "20"],
    ],
)
def test_numbers_that_count_persons(names):
    assert of([f"{name}.nii.gz" for name in names]) == names


def test_a_fixed_file_name_leaves_the_folder_of_the_first_wildcard_unless_it_is_a_visit():
    paths = ["visit1/A1/T1.nii", "visit2/A1/T1.nii", "visit1/A2/T1.nii"]
    assert of(paths, "*/*/T1.nii") == ["A1", "A1", "A2"]
    assert of(["A1/v1/T1.nii", "A1/v2/T1.nii"], "*/*/T1.nii") == ["A1", "A1"]
    assert of(["v1/T1.nii", "v2/T1.nii"], "*/T1.nii") == ["v1", "v2"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is no regular expression"), ("a.*", "has no group"), ("z(.)", "names no person in a1.nii")],
)
def test_patterns_that_cannot_be_used(pattern, message):
    with pytest.raises(DataError, match=message):
        persons(["a1.nii"], "*", VOLUME_SUFFIXES, pattern)


def test_a_pattern_goes_before_every_convention():
    assert persons(["sub-01_A7.nii"], "*", VOLUME_SUFFIXES, "(?:_(A[0-9]))") == ["A7"]


def test_label_maps_are_known_by_their_names():
    maps = [
        "a_seg.nii",
        "aseg.mgz",
        "aparc+aseg.mgz",
        "brain_mask.nii",
        "x_dseg.nii.gz",
        "labelsTr/x.nii",
        "lesion.nii",
    ]
    images = ["brainmask.mgz", "T1_masked.nii", "imagesTr/x.nii", "segovia.nii", "sub-1_T1w.nii"]
    assert label_maps(maps + images, VOLUME_SUFFIXES) == maps
