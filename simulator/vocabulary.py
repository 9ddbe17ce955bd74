"""The words of the simulated shop: categories with their products, styles, brands, regions.

A product's text follows from its latent truth (leaf category, style, brand), so that a model that reads titles
can learn taste from them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Leaf:
    """A category at the end of its path, and what is sold there.

    Attributes:
        path: general to special, joined by " > ".
        price: median price in the shop's currency.
        peak: month of highest demand, 1..12; 0 for no season.
        consumable: bought again and again.
        nouns: kinds of product.
        materials: what they are made of, or which variety.
    """

    path: str
    price: float
    peak: int
    consumable: bool
    nouns: tuple[str, ...]
    materials: tuple[str, ...]

    @property
    def top(self) -> str:
        return self.path.split(" > ", 1)[0]


# path | median price | peak month | consumable | nouns | materials
_LEAVES = """
Home > Kitchen > Mugs | 12 | 12 | | Mug, Espresso Cup, Travel Mug, Teacup | Stoneware, Porcelain, Enamel, Glass
Home > Kitchen > Cookware | 45 | 11 | | Frying Pan, Casserole, Saucepan, Wok | Cast Iron, Steel, Copper, Ceramic
Home > Kitchen > Knives | 38 | 12 | | Chef's Knife, Paring Knife, Bread Knife | Damascus Steel, Carbon Steel, Ceramic
Home > Decor > Candles | 16 | 11 | c | Scented Candle, Pillar Candle, Tea Lights | Soy Wax, Beeswax, Rapeseed Wax
Home > Decor > Cushions | 24 | 10 | | Cushion, Throw Pillow, Bolster | Linen, Velvet, Cotton, Wool
Home > Decor > Lamps | 58 | 11 | | Table Lamp, Floor Lamp, Pendant Light | Brass, Oak, Rattan, Paper
Fashion > Women > Dresses | 62 | 6 | | Midi Dress, Wrap Dress, Shirt Dress | Cotton, Viscose, Linen, Satin
Fashion > Women > Handbags | 85 | 3 | | Tote Bag, Crossbody Bag, Clutch | Leather, Canvas, Suede
Fashion > Men > Shirts | 44 | 5 | | Oxford Shirt, Polo Shirt, Overshirt | Cotton, Flannel, Linen
Fashion > Men > Jackets | 110 | 10 | | Field Jacket, Bomber Jacket, Parka | Wool, Waxed Cotton, Nylon
Fashion > Shoes > Trainers | 88 | 4 | | Trainers, High-Tops, Slip-Ons | Canvas, Leather, Knit
Fashion > Shoes > Boots | 125 | 10 | | Chelsea Boots, Hiking Boots, Ankle Boots | Leather, Suede, Nubuck
Electronics > Audio > Headphones | 95 | 11 | | Over-Ear Headphones, Earbuds, Headset | Wireless, Wired, Open-Back
Electronics > Audio > Speakers | 120 | 12 | | Bluetooth Speaker, Soundbar, Bookshelf Speaker | Walnut, Aluminium, Fabric
Electronics > Computing > Keyboards | 78 | 9 | | Mechanical Keyboard, Compact Keyboard, Numpad | Bamboo, Plastic
Electronics > Computing > Storage | 70 | 11 | | Portable SSD, Memory Card, USB Stick | 1 TB, 512 GB, 2 TB
Electronics > Smart Home > Lighting | 34 | 11 | | Light Strip, Smart Bulb, Motion Sensor | Colour, Warm White, Tunable
Beauty > Skin Care > Face Cream | 28 | 1 | c | Day Cream, Night Cream, Face Serum | Hyaluronic, Shea, Vitamin C, Aloe
Beauty > Skin Care > Sun Care | 18 | 7 | c | Sun Lotion, After-Sun Gel, Sun Stick | SPF 30, SPF 50, Mineral
Beauty > Make-up > Lipstick | 19 | 2 | | Lipstick, Lip Gloss, Lip Liner | Rose, Coral, Berry, Nude
Beauty > Hair > Shampoo | 12 | 0 | c | Shampoo, Conditioner, Hair Mask | Argan, Rosemary, Oat, Coconut
Beauty > Fragrance > Perfume | 72 | 12 | | Eau de Parfum, Eau de Toilette, Body Mist | Cedar, Jasmine, Citrus, Amber
Sports > Cycling > Accessories | 32 | 5 | | Bike Light, Bike Pump, Bottle Cage, Bike Lock | Aluminium, Carbon, Steel
Sports > Running > Shoes | 115 | 4 | | Running Shoes, Trail Shoes, Racing Flats | Cushioned, Stability, Lightweight
Sports > Fitness > Equipment | 42 | 1 | | Kettlebell, Resistance Band, Foam Roller | Cast Iron, Latex, Cork
Sports > Yoga > Mats | 36 | 1 | | Yoga Mat, Yoga Block, Meditation Cushion | Cork, Rubber, Jute
Outdoor > Camping > Tents | 190 | 6 | | Dome Tent, Tunnel Tent, Tarp | Ripstop, Polycotton, Silnylon
Outdoor > Hiking > Backpacks | 98 | 5 | | Daypack, Trekking Pack, Hydration Pack | Cordura, Recycled Nylon, Canvas
Outdoor > Garden > Tools | 27 | 4 | | Hand Trowel, Secateurs, Watering Can | Steel, Ash Wood, Copper
Outdoor > Garden > Seeds | 6 | 3 | c | Flower Seeds, Herb Seeds, Vegetable Seeds | Heirloom, Organic, Wild
Toys > Games > Board Games | 34 | 12 | | Strategy Game, Party Game, Card Game | Wooden, Deluxe, Travel
Toys > Building > Blocks | 40 | 12 | | Building Set, Marble Run, Magnetic Tiles | Beech, Plastic, Magnetic
Toys > Plush > Animals | 22 | 12 | | Teddy Bear, Plush Rabbit, Plush Fox | Organic Cotton, Mohair, Corduroy
Toys > Outdoor > Kites | 26 | 6 | | Stunt Kite, Delta Kite, Frisbee | Ripstop, Nylon, Paper
Books > Fiction > Crime | 13 | 7 | | Detective Novel, Thriller, Cold-Case Novel | Hardback, Paperback
Books > Fiction > Fantasy | 15 | 12 | | Epic Fantasy, Fairy Tale Retelling, Dragon Saga | Hardback, Illustrated
Books > Non-fiction > Cookbooks | 26 | 11 | | Baking Book, Curry Book | Hardback, Spiral-Bound, Illustrated
Books > Non-fiction > Travel | 19 | 5 | | City Guide, Hiking Guide, Road Atlas | Paperback, Pocket, Waterproof
Grocery > Drinks > Coffee | 14 | 0 | c | Coffee Beans, Ground Coffee, Espresso Pods | Ethiopian, Decaf, Dark Roast
Grocery > Drinks > Tea | 9 | 11 | c | Green Tea, Black Tea, Herbal Infusion | Loose-Leaf, Bagged, Organic
Grocery > Sweets > Chocolate | 7 | 12 | c | Chocolate Bar, Truffles, Pralines | Dark, Milk, Hazelnut, Sea Salt
Grocery > Pantry > Oils | 17 | 0 | c | Olive Oil, Sesame Oil, Balsamic Vinegar | Cold-Pressed, Unfiltered, Aged
Pets > Dogs > Food | 31 | 0 | c | Dry Dog Food, Dog Treats, Wet Dog Food | Salmon, Lamb, Grain-Free, Chicken
Pets > Dogs > Walking | 25 | 4 | | Dog Lead, Dog Harness, Dog Coat | Leather, Nylon, Rope
Pets > Cats > Toys | 11 | 0 | | Scratching Post, Feather Wand, Cat Tunnel | Sisal, Felt, Cardboard
Pets > Aquarium > Equipment | 48 | 0 | | Aquarium Filter, Aquarium Light, Water Heater | Nano, Quiet, LED
Office > Writing > Pens | 21 | 9 | | Fountain Pen, Gel Pens, Pencil Set | Brass, Resin, Cedar
Office > Paper > Notebooks | 14 | 9 | c | Notebook, Weekly Planner, Sketchbook | Dotted, Ruled, Recycled
"""


def _leaf(line: str) -> Leaf:
    path, price, peak, consumable, nouns, materials = (part.strip() for part in line.split("|"))
    return Leaf(
        path, float(price), int(peak), consumable == "c", tuple(nouns.split(", ")), tuple(materials.split(", "))
    )


LEAVES: tuple[Leaf, ...] = tuple(_leaf(line) for line in _LEAVES.strip().splitlines())
TOPS: tuple[str, ...] = tuple(dict.fromkeys(leaf.top for leaf in LEAVES))
TOP_OF_LEAF: tuple[int, ...] = tuple(TOPS.index(leaf.top) for leaf in LEAVES)


@dataclass(frozen=True)
class Style:
    """A taste that cuts across categories.

    Attributes:
        name: also a tag of its items.
        adjectives: how titles say it.
        sentence: how descriptions say it.
        age: mean age of the people who like it.
        price: factor on the price.
    """

    name: str
    adjectives: tuple[str, ...]
    sentence: str
    age: float
    price: float


STYLES: tuple[Style, ...] = (
    Style("minimal", ("Plain", "Pure", "Simple", "Nordic"), "Clean lines and nothing that distracts.", 33, 1.1),
    Style(
        "vintage", ("Vintage", "Retro", "Heritage", "Antique"), "A shape your grandparents would recognise.", 46, 1.0
    ),
    Style("luxury", ("Luxury", "Signature", "Prestige", "Grand"), "Finished by hand, made to be noticed.", 50, 1.9),
    Style("playful", ("Rainbow", "Happy", "Quirky", "Pop"), "Bright colours that make Mondays lighter.", 26, 0.8),
    Style("eco", ("Green", "Earth-Kind", "Natural", "Planet"), "Fair, plastic-free and climate neutral.", 31, 1.15),
    Style(
        "rugged", ("Rugged", "Expedition", "Trailside", "Storm"), "Built to be dropped, soaked and used again.", 40, 1.1
    ),
    Style("smart", ("Smart", "Pro", "Precision", "Next-Gen"), "Clever engineering down to the last detail.", 35, 1.3),
    Style("romantic", ("Blossom", "Boho", "Dreamy", "Meadow"), "Soft tones, florals and a little nostalgia.", 30, 0.95),
    Style("budget", ("Everyday", "Basic", "Value", "Essential"), "Does its job well and costs little.", 42, 0.6),
    Style("festive", ("Festive", "Winter", "Golden", "Celebration"), "Made for presents and long evenings.", 55, 1.0),
)

_A_TO_L = ("Alder", "Birch", "Corvo", "Dune", "Elm", "Fjord", "Gale", "Hazel", "Iris", "Juno", "Kestrel", "Lark")
_M_TO_Y = ("Moss", "Nova", "Orla", "Pike", "Quill", "Rowan", "Sable", "Tarn", "Umber", "Vale", "Wren", "Yarrow")
BRAND_FIRST = (*_A_TO_L, *_M_TO_Y)
BRAND_SECOND = ("& Sons", "Works", "Atelier", "House", "Collective", "Goods", "Supply", "Studio", "Bros", "Lane")


@dataclass(frozen=True)
class Region:
    """A country: its share of shoppers, main language and hours ahead of UTC."""

    code: str
    share: float
    language: str
    offset: int


REGIONS: tuple[Region, ...] = (
    Region("DE", 0.30, "de", 1),
    Region("GB", 0.25, "en", 0),
    Region("US", 0.20, "en", -6),
    Region("FR", 0.15, "fr", 1),
    Region("ES", 0.10, "es", 1),
)
AGE_GROUPS: tuple[tuple[str, int], ...] = (
    ("18-24", 21),
    ("25-34", 30),
    ("35-44", 40),
    ("45-54", 50),
    ("55-64", 60),
    ("65+", 70),
)
