"""Datagrams as upstream Octavia 19.0.0 makes them (zlib 1.2.13), and the documents inside."""

from __future__ import annotations

KEY = "insecure-test-heartbeat-key"
KEY_C = "k\u00e9y-\u00fctf8"

# A: one HAProxy listener, one pool with a member up and one down.
DOCUMENT_A = (
    '{"id": "5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11", "seq": 67, "listeners": {"0f2a1c1e-9d0b-4a53-8f4e-2b7'
    'f1d7c0a01": {"status": "OPEN", "stats": {"tx": 20480, "rx": 10240, "conns": 3, "totconns": 41, "ereq'
    '": 2}}}, "pools": {"7b1d4c7e-3a5c-4f57-8d9a-9b8c7a6d5e02:0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01": {"st'
    'atus": "UP", "members": {"c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e703": "UP", "c1a2b3c4-d5e6-4f70-8192-a3b4'
    'c5d6e704": "DOWN"}}}, "ver": 3}'
)
A_HEX = bytes.fromhex(
    "78da9d4fcb6ac33010fc95a0731776f5b0e49cdb6b924be9598f150412bbb5955008fef74a36a1d7d2d3ee0cb3b3330f714e"
    "62bf132651905945c0800c3a980cbd3706bae8b2cbe88989c4cb4eccfc55e59dadebe53c171e789a2bf11098a5a7480c7dc2"
    "00da1b052e6b06196ca664237aa45538175f6eed461c4f6f87d5b3329b49f9ae43a27658e9a90142a91b88e330348daa7b19"
    "cb136aaa98a735945c96a5a2cf71bc6c6e3650d2d132286f22e86c2cb8d47be8838bd677c930cafd3f72bf9f5aea2b5fc3b3"
    "7c242f838a1aaa67573f590447bd04af828e26756c51fd5efe41ad9bfaf5f871105ba93b4fadfcf2031f3e74a93564336532"
    "3264363734336266636664343734393437396463336465643134373235313533306261336437633032633864333061386165"
    "373462383332366337"
)
A_BINARY = bytes.fromhex(
    "78da9d4fcb6ac33010fc95a0731776f5b0e49cdb6b924be9598f150412bbb5955008fef74a36a1d7d2d3ee0cb3b3330f714e"
    "62bf132651905945c0800c3a980cbd3706bae8b2cbe88989c4cb4eccfc55e59dadebe53c171e789a2bf11098a5a7480c7dc2"
    "00da1b052e6b06196ca664237aa45538175f6eed461c4f6f87d5b3329b49f9ae43a27658e9a90142a91b88e330348daa7b19"
    "cb136aaa98a735945c96a5a2cf71bc6c6e3650d2d132286f22e86c2cb8d47be8838bd677c930cafd3f72bf9f5aea2b5fc3b3"
    "7c242f838a1aaa67573f590447bd04af828e26756c51fd5efe41ad9bfaf5f871105ba93b4fadfcf2031f3e74a95d3e22d674"
    "3bfcfd4749479dc3ded147251530ba3d7c02c8d30a8ae74b8326c7"
)

# B: a listener at its connection limit, a UDP listener, every word a member may have.
DOCUMENT_B = (
    '{"id": "5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11", "seq": 68, "listeners": {"4f6b8dac-2e30-4f7b-9c1d-3e5'
    'f7b9d1f03": {"status": "FULL", "stats": {"tx": 0, "rx": 7, "conns": 50, "totconns": 1, "ereq": 0}}, '
    '"3e5a7c9b-1d2f-4e6a-8b0c-2d4f6a8c0e02": {"status": "OPEN", "stats": {"tx": 900, "rx": 300, "conns": '
    '0, "totconns": 5, "ereq": 0}}}, "pools": {"ad9c8b7e-6f50-4b4c-9d3e-2f10ab9c8d04:4f6b8dac-2e30-4f7b-9'
    'c1d-3e5f7b9d1f03": {"status": "UP", "members": {"c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e711": "no check", '
    '"c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e712": "MAINT"}}, "9c8b7a6d-5e4f-4a3b-8c2d-1e0f9a8b7c03": {"status"'
    ': "UP", "members": {"c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e721": "UP", "c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e'
    '722": "DRAIN", "c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e723": "RESTARTING"}}}, "ver": 3}'
)
B_HEX = bytes.fromhex(
    "78daad91db4a033110865fa5e4da811c36bb49ef04ab146a2db57d801c26586c77757715a1f4dd9d6ca962f1a2885799d33f"
    "f36566cf36918d474c47e1655201b8e70885d709acd31aca609249dc0914825d8d5887af545e1a32b79baec71adb8e027b56"
    "a4d29be80248541c8a5479b0414450a8c9b65124ae86c2ae77fd5bd6b0dbf56c36f4a4c8b149ff410fa7509b8d8a8cd0d475"
    "cee91ced9bfee40b72b11d60f8e1400ecd7155b01e4494090a2c1d18cf092712993381239767f31f1693f92ff32dff225083"
    "799a7986a07f20648697a6d91e1bb96883f1154299346dc317016c54083209ee3ce5222fc67f58d97a918177b8f3a7bd07e1"
    "a457a180a8b1cc4d38186125384543752cb1a2c391b26e46e109c373d65fa0c9bb62f7d7d3f98a0d5f1bbee3ca081a0b5a2f"
    "5582093282409eaca35cf8175629be9517540f94374bc2bc509019d972f2b8ba5eaea6f33b76bcdb3bb6f9d8874f470cd3ab"
    "6139663832626339353735666462653439376634376636396233643830393538313333303265626536356234373362373537"
    "3165633863346630376461366666"
)

# C: an idle amphora, and a key that is not ASCII.
DOCUMENT_C = '{"id": "b6a0c9d2-41f7-4d9e-8f00-1f2e3d4c5b66", "seq": 0, "listeners": {}, "pools": {}, "ver": 3}'
C_HEX = bytes.fromhex(
    "78da3d8a410a80201000bf227b4ed034cb7e93ba8220591a5dc4bfb7a76e33c37448017606ce1cc2db30732de3ca75b0c8b7"
    "280497714615b45f9c3130316878d32e88726a0f9e581b791f14ae52f22f2f5642353eedf41ae33437633866373137376639"
    "3663373534353031306663623339323839646230383532633661376263653337313032656365333631316662663031663239"
    "643137"
)
